/* Products of patches and windows for ops/patch_match.py, which holds the reference. Tensors are contiguous float32. */

#include "kernels.h"

/* What the registers of the instruction set hold at once: sums of BLOCKS patches at WIDE windows. */
#if defined(__AVX512F__)
#define LANES 16
#define VECTORS 3
#define BLOCKS 8
#else
#define LANES 8
#define VECTORS 2
#define BLOCKS 6
#endif
#define WIDE (LANES * VECTORS)
#define CACHED 32768 /* floats of each view that stay in the second cache while all patches meet them */

typedef float Vector __attribute__((vector_size(4 * LANES), aligned(4)));

/* Adds to scores (blocks, stride) what rows of the two views have in common; blocks is a constant where this is called. */
static inline __attribute__((always_inline)) void add_products(const float *target, const float *side, float *scores,
                                                               size_t stride, int blocks, int channels, int size,
                                                               size_t plane, int width) {
    Vector sums[BLOCKS][VECTORS];
#pragma clang loop unroll(full)
    for (int b = 0; b < blocks; b++)
#pragma clang loop unroll(full)
        for (int v = 0; v < VECTORS; v++) sums[b][v] = *(const Vector *)(scores + b * stride + v * LANES);
    for (int c = 0; c < channels; c++)
        for (int i = 0; i < size; i++) {
            const float *t = target + c * plane + (size_t)i * width, *s = side + c * plane + (size_t)i * width;
            for (int j = 0; j < size; j++) {
                Vector window[VECTORS];
#pragma clang loop unroll(full)
                for (int v = 0; v < VECTORS; v++) window[v] = *(const Vector *)(s + j + v * LANES);
#pragma clang loop unroll(full)
                for (int b = 0; b < blocks; b++)
#pragma clang loop unroll(full)
                    for (int v = 0; v < VECTORS; v++) sums[b][v] += window[v] * t[b * size + j];
            }
        }
#pragma clang loop unroll(full)
    for (int b = 0; b < blocks; b++)
#pragma clang loop unroll(full)
        for (int v = 0; v < VECTORS; v++) *(Vector *)(scores + b * stride + v * LANES) = sums[b][v];
}

static void add(const float *target, const float *side, float *scores, size_t stride, int blocks, int channels,
                int size, size_t plane, int width) {
    switch (blocks) {
        case 1: add_products(target, side, scores, stride, 1, channels, size, plane, width); break;
        case 2: add_products(target, side, scores, stride, 2, channels, size, plane, width); break;
        case 3: add_products(target, side, scores, stride, 3, channels, size, plane, width); break;
        case 4: add_products(target, side, scores, stride, 4, channels, size, plane, width); break;
        case 5: add_products(target, side, scores, stride, 5, channels, size, plane, width); break;
#if BLOCKS == 8
        case 6: add_products(target, side, scores, stride, 6, channels, size, plane, width); break;
        case 7: add_products(target, side, scores, stride, 7, channels, size, plane, width); break;
#endif
        default: add_products(target, side, scores, stride, BLOCKS, channels, size, plane, width);
    }
}

static int smaller(int a, int b) { return a < b ? a : b; }

/* tensors: target, side (batch, channels, height, width), columns (batch, bands, blocks) in int32, and two that are
   written over, both full of 0: scores (batch, bands, blocks, stride), energy (batch, bands, width); rows of the
   flattened (batch, band) axis. numbers: channels, height, width, patch size, blocks, candidates, stride and direction.

   The first `candidates` windows count, of which there are at least 64 in memory; stride is at least 64 more. With
   direction -1 a patch looks to its left, with 1 to its right, with 0 everywhere; equal windows: the nearest. */
EXPORT void patch_match(void *const *tensors, const int *numbers, int row_begin, int row_end) {
    const float *targets = tensors[0], *sides = tensors[1];
    int *columns = tensors[2];
    float *all_scores = tensors[3], *all_energy = tensors[4];
    const int channels = numbers[0], height = numbers[1], width = numbers[2], size = numbers[3], blocks = numbers[4];
    const int candidates = numbers[5], direction = numbers[7];
    const size_t stride = numbers[6], plane = (size_t)height * width;
    const int bands = height / size, windows = width - size + 1;
    const int tiles = (smaller(candidates, windows) + WIDE - 1) / WIDE;
    int step = CACHED / (size * width);
    step = step < 1 ? 1 : step;
    for (int row = row_begin; row < row_end; row++) {
        const size_t start = (size_t)(row / bands) * channels * plane + (size_t)(row % bands) * size * width;
        float *scores = all_scores + (size_t)row * blocks * stride, *restrict energy = all_energy + (size_t)row * width;
        for (int c = 0; c < channels; c += step) {
            const int count = smaller(step, channels - c);
            const float *target = targets + start + c * plane, *side = sides + start + c * plane;
            for (int k = 0; k < count; k++)
                for (int i = 0; i < size; i++) {
                    const float *restrict s = side + k * plane + (size_t)i * width;
                    for (int x = 0; x < width; x++) energy[x] += s[x] * s[x];
                }
            for (int block = 0; block < blocks; block += BLOCKS)
                for (int tile = 0; tile < tiles; tile++) {
                    /* the last tile lies over the one before it rather than beyond the row */
                    const int u = smaller(tile * WIDE, windows - WIDE);
                    int first = block, behind = smaller(block + BLOCKS, blocks);
                    if (direction < 0) /* patches that begin left of all these windows do not look at them */
                        while (first < behind && first * size < u) first++;
                    if (direction > 0)
                        while (behind > first && (behind - 1) * size > u + WIDE - 1) behind--;
                    if (first < behind)
                        add(target + first * size, side + u, scores + first * stride + (size_t)tile * WIDE, stride,
                            behind - first, count, size, plane, width);
                }
        }
        for (int u = 0; u < windows; u++) { /* of whole windows, in place: no column left of u is needed again */
            float sum = 0;
            for (int j = 0; j < size; j++) sum += energy[u + j];
            energy[u] = 1 / sqrtf(sum + 1e-20f);
        }
        for (int block = 0; block < blocks; block++) {
            const float *score = scores + block * stride;
            const int own = smaller(block * size, candidates - 1);
            float best = -INFINITY;
            int found = own;
            for (int distance = 0; distance < candidates; distance++)
                for (int sign = -1; sign <= 1; sign += 2) {
                    const int u = own + sign * distance;
                    if (u < 0 || u >= candidates || (distance && sign * direction < 0)) continue;
                    const int tile = u / WIDE, place = u - smaller(tile * WIDE, windows - WIDE);
                    const float value = score[(size_t)tile * WIDE + place] * energy[u];
                    if (value > best) {
                        best = value;
                        found = u;
                    }
                }
            columns[(size_t)row * blocks + block] = found;
        }
    }
}
