#pragma once

/// What the files of the runtime share.
namespace peakcast::capture {

/// Remembers an error for cudaGetLastError(), on this thread, and returns it.
int set_error(int error);
/// Value of a cudaDeviceAttr or CUdevice_attribute (the same numbers); 0 for one that no PyTorch
/// asks for.
int device_attribute(int* value, int attribute, int card);

}  // namespace peakcast::capture
