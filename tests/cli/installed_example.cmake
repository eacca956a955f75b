# Installs the build into a folder of its own, builds the example policy against that package with
# nothing else of the source tree, runs the installed program with it, and with a policy that breaks
# its promises.
function(run status)
  execute_process(COMMAND ${ARGN} RESULT_VARIABLE got OUTPUT_VARIABLE out ERROR_VARIABLE err)
  if(NOT got EQUAL status)
    message(FATAL_ERROR "exit status ${got} instead of ${status}: ${ARGN}\n${out}\n${err}")
  endif()
  set(output "${out}${err}" PARENT_SCOPE)
endfunction()

file(REMOVE_RECURSE ${WORK})
file(COPY ${SOURCE}/allocators/plugin/example DESTINATION ${WORK})
set(trace ${SOURCE}/tests/data/bert_large_fp32_b8_s128.csv.zst)
run(0 ${CMAKE_COMMAND} --install ${BUILD} --prefix ${WORK}/prefix)
run(0 ${CMAKE_COMMAND} -S ${WORK}/example -B ${WORK}/build -D CMAKE_PREFIX_PATH=${WORK}/prefix
    -D CMAKE_BUILD_TYPE=Release)
run(0 ${CMAKE_COMMAND} --build ${WORK}/build)
run(0 ${WORK}/prefix/bin/peakcast compare ${trace} --policy pytorch,${WORK}/build/libfirst_fit.so)
if(NOT output MATCHES "first_fit")
  message(FATAL_ERROR "no row for the example:\n${output}")
endif()
run(0 ${WORK}/prefix/bin/peakcast replay ${trace} --policy ${WORK}/build/libfirst_fit.so)
run(2 ${WORK}/prefix/bin/peakcast replay ${trace} --policy ${BAD_POLICY})
if(NOT output MATCHES "at request 3 .* overlaps")
  message(FATAL_ERROR "the fault does not tell the request and the overlap:\n${output}")
endif()

# What people read, and the emulated card.
foreach(file share/man/man1/peakcast.1 share/bash-completion/completions/peakcast share/zsh/site-functions/_peakcast
             share/doc/peakcast/LICENSE share/peakcast/GPUS.md share/peakcast/gpus/h100-80g.json
             share/peakcast/example/first_fit.c include/peakcast/peakcast_policy.h lib/peakcast/libpeakcast_capture.so)
  if(NOT EXISTS ${WORK}/prefix/${file})
    message(FATAL_ERROR "${file} is not installed")
  endif()
endforeach()
run(0 ${WORK}/prefix/bin/peakcast predict --model bert-tiny --gpu ${WORK}/prefix/share/peakcast/gpus/a100-40g.json)
run(2 ${WORK}/prefix/bin/peakcast capture --format json -- true)
if(NOT output MATCHES "allocated nothing on a card")
  message(FATAL_ERROR "the emulated card was not found:\n${output}")
endif()

# The libraries, too: a program of a few lines against peakcast::allocators.
file(WRITE ${WORK}/user/CMakeLists.txt "cmake_minimum_required(VERSION 3.25)
project(user LANGUAGES CXX)
find_package(peakcast 0.2 REQUIRED COMPONENTS sim allocators)
add_executable(user user.cpp)
target_link_libraries(user PRIVATE peakcast::allocators)
")
file(WRITE ${WORK}/user/user.cpp "#include <peakcast/allocators/packing.hpp>
#include \"allocators/registry.hpp\"
int main() { return peakcast::policies().size() > 1 && peakcast::find_policy(\"buddy\") ? 0 : 1; }
")
run(0 ${CMAKE_COMMAND} -S ${WORK}/user -B ${WORK}/user/build -D CMAKE_PREFIX_PATH=${WORK}/prefix
    -D CMAKE_BUILD_TYPE=Release)
run(0 ${CMAKE_COMMAND} --build ${WORK}/user/build)
run(0 ${WORK}/user/build/user)
