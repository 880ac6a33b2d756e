/* What all kernels share: plain C, no libraries, and functions that a caller may split over threads by a range of the
   outermost axis. */

#pragma once

#include <math.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#if defined(_WIN32)
#define EXPORT __declspec(dllexport)
#else
#define EXPORT __attribute__((visibility("default")))
#endif
