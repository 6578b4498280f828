# Compile options of our own targets; third-party code keeps its own.
add_library(hybridattn_options INTERFACE)
target_compile_options(hybridattn_options INTERFACE -Wall -Wextra -Wconversion -Wshadow -Wno-sign-conversion)
if(HYBRIDATTN_WERROR)
  target_compile_options(hybridattn_options INTERFACE -Werror)
endif()
# Results must not depend on what a compiler folds: fused multiply-adds are written out in the kernels.
target_compile_options(hybridattn_options INTERFACE -ffp-contract=off)

if(HYBRIDATTN_FUZZ)
  if(NOT CMAKE_CXX_COMPILER_ID STREQUAL "Clang")
    message(FATAL_ERROR "HYBRIDATTN_FUZZ needs clang, the compiler is ${CMAKE_CXX_COMPILER_ID}")
  endif()
  add_compile_options(-fsanitize=fuzzer-no-link)
endif()

if(HYBRIDATTN_SANITIZE)
  add_compile_options(-fsanitize=${HYBRIDATTN_SANITIZE} -fno-omit-frame-pointer
                      -fno-sanitize-recover=all)
  add_link_options(-fsanitize=${HYBRIDATTN_SANITIZE})
endif()
