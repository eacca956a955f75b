#pragma once

#include <cstdint>
#include <utility>

namespace peakcast::torch {

/// Base of what is counted by its holders, as PyTorch counts tensors, storages and graph nodes: the
/// count itself is behaviour (a gradient with one holder is stolen, with two it is cloned).
/// Not thread-safe: one run, one thread.
class RefCounted {
 public:
  RefCounted() = default;
  RefCounted(const RefCounted&) = delete;
  RefCounted& operator=(const RefCounted&) = delete;
  virtual ~RefCounted() = default;
  [[nodiscard]] std::uint32_t use_count() const { return references_; }

 private:
  template <class T>
  friend class Ref;
  void drop_reference();  ///< out of line: g++ 12 sees a use after free in what it inlines
  std::uint32_t references_{};
};

/// A holder of a RefCounted. Empty, or keeps its target alive.
template <class T>
class Ref {
 public:
  Ref() = default;
  explicit Ref(T* target) : target_{target} { retain(); }
  Ref(const Ref& other) : target_{other.target_} { retain(); }
  Ref(Ref&& other) noexcept : target_{std::exchange(other.target_, nullptr)} {}
  template <class U>
  Ref(const Ref<U>& other) : target_{other.get()} {  // NOLINT(*-explicit-*): derived to base
    retain();
  }
  Ref& operator=(const Ref& other) {  // NOLINT(bugprone-unhandled-self-assignment): copy and swap
    Ref copy{other};
    std::swap(target_, copy.target_);
    return *this;
  }
  /// The old target is dropped after the new one is held, as a Python name is rebound.
  Ref& operator=(Ref&& other) noexcept {
    Ref moved{std::move(other)};
    std::swap(target_, moved.target_);
    return *this;
  }
  ~Ref() { reset(); }

  void reset() {
    if (T* old = std::exchange(target_, nullptr)) {
      static_cast<RefCounted*>(old)->drop_reference();
    }
  }
  [[nodiscard]] T* get() const { return target_; }
  T* operator->() const { return target_; }
  T& operator*() const { return *target_; }
  explicit operator bool() const { return target_ != nullptr; }
  friend bool operator==(const Ref& a, const Ref& b) { return a.target_ == b.target_; }

 private:
  void retain() {
    if (target_ != nullptr) {
      ++target_->references_;
    }
  }
  T* target_{};
};

template <class T, class... Args>
[[nodiscard]] Ref<T> make_ref(Args&&... args) {
  return Ref<T>{new T(std::forward<Args>(args)...)};
}

}  // namespace peakcast::torch
