/* What all kernels share: plain C, no libraries, and functions that a caller may split over threads by a range of the
   outermost axis. */

#pragma once

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#if defined(_WIN32)
#define EXPORT __declspec(dllexport)
#else
#define EXPORT __attribute__((visibility("default")))
#endif

/* A kernel that threads share: pointers and sizes in the order that its comment names, and its own range of rows. */
typedef void (*Kernel)(void *const *tensors, const int *numbers, int row_begin, int row_end);

/* Counts changes of what kernels take; Python compares it with its own. */
#define INTERFACE 2
extern EXPORT int interface;

/* How often a kernel found no memory and left its rows undone; the caller compares before and after. */
extern EXPORT int exhausted;

/* Memory of a kernel's own, or NULL, counted. */
static inline void *room(size_t bytes) {
    void *found = malloc(bytes);
    if (!found) __atomic_fetch_add(&exhausted, 1, __ATOMIC_RELAXED);
    return found;
}

/* e^x within the range of floats, to 2e-7 of itself; plain arithmetic, which vectorises. */
static inline float exponential(float exponent) {
    float x = exponent > -87 ? exponent : -87; /* NaN too, which is no whole number, and comes back at the end */
    x = x < 87 ? x : 87;
    const float n = floorf(x * 1.44269504f + 0.5f), r = x - n * 0.693147181f;
    const float p =
        1 + r * (1 + r * (0.5f + r * (0.166666667f + r * (0.0416666667f + r * (0.00833333333f + r * 0.00138888889f)))));
    union {
        int bits;
        float value;
    } power = {((int)n + 127) << 23};
    return exponent != exponent ? exponent : p * power.value;
}

#define HYPOTHESIS 16 /* numbers of HITNet's: d, dx, dy and the descriptor */

/* To bfloat16: to the nearest, and to the even one of two; NaN stays. */
static inline uint16_t narrow(float value) {
    union {
        float value;
        uint32_t bits;
    } u = {value};
    return (uint16_t)(value != value ? 0x7fc0 : (u.bits + 0x7fff + (u.bits >> 16 & 1)) >> 16);
}
