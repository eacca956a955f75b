#include "sim/core/error.hpp"

namespace peakcast {

std::string to_string(const Error& error) {
  if (!error.at) {
    return error.message;
  }
  std::string text = error.at->file;
  if (error.at->line > 0) {
    text += ":" + std::to_string(error.at->line);
    if (error.at->column > 0) {
      text += ":" + std::to_string(error.at->column);
    }
  } else if (error.at->offset >= 0) {
    text += ": byte " + std::to_string(error.at->offset);
  }
  return text + ": " + error.message;
}

}  // namespace peakcast
