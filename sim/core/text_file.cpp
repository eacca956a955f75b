#include "sim/core/text_file.hpp"

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <system_error>

namespace peakcast {

Expected<std::string> read_text_file(const std::string& path, std::size_t maximum) {
  const InputPosition at{.file = path};
  std::error_code error;
  if (!std::filesystem::exists(path, error)) {
    return Error{ErrorCode::not_found, "no such file", at};
  }
  if (std::filesystem::is_directory(path, error)) {
    return Error{ErrorCode::io, "is a folder", at};
  }
  std::ifstream stream{path, std::ios::binary};
  if (!stream) {
    return Error{ErrorCode::io, "cannot be read", at};
  }
  std::string text(maximum + 1, '\0');
  stream.read(text.data(), static_cast<std::streamsize>(text.size()));
  text.resize(static_cast<std::size_t>(stream.gcount()));
  if (stream.bad()) {
    return Error{ErrorCode::io, "cannot be read", at};
  }
  if (text.size() > maximum) {
    return invalid_input("larger than " + std::to_string(maximum) + " bytes", at);
  }
  return text;
}

InputPosition position_in(std::string_view text, std::size_t offset, const std::string& file) {
  const std::string_view before = text.substr(0, std::min(offset, text.size()));
  const auto last_break = before.rfind('\n');
  const std::size_t column =
      last_break == std::string_view::npos ? before.size() + 1 : before.size() - last_break;
  return {.file = file,
          .line = 1 + std::count(before.begin(), before.end(), '\n'),
          .column = static_cast<std::int64_t>(column)};
}

}  // namespace peakcast
