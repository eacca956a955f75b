// What every target keeps to, input by input: time and memory are properties of the harness. Words
// on the command line, which come later, may say otherwise.
#include <array>
#include <vector>

namespace {

// An input is at most 4 KiB unless -max_len says otherwise, and nothing that is read here may take
// more than seconds (under sanitizers) or this much memory for it.
std::array<char, 11> timeout{"-timeout=5"};
std::array<char, 20> resident{"-rss_limit_mb=1024"};
std::array<char, 21> single{"-malloc_limit_mb=512"};

}  // namespace

// libFuzzer calls this before it reads its words.
extern "C" int LLVMFuzzerInitialize(int* argc, char*** argv) {
  static std::vector<char*> words;
  words.assign(*argv, *argv + *argc);
  words.insert(words.begin() + 1, {timeout.data(), resident.data(), single.data()});
  *argc = static_cast<int>(words.size());
  words.push_back(nullptr);
  *argv = words.data();
  return 0;
}
