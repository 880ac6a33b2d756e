/* HITNet's tile operators on maps of ops/program.py: features in bfloat16 with margins, hypotheses in float32 without.
   A hypothesis is 16 numbers: d, dx, dy and the descriptor. ops/tile_steps.py says what each kernel is the same as. */

#include "kernels.h"

static int within(int value, int high) { return value < 0 ? 0 : value > high ? high : value; }

static uint64_t narrow_three(float a, float b, float c) {
    return narrow(2 * a - 1) | (uint64_t)narrow(2 * b - 1) << 16 | (uint64_t)narrow(2 * c - 1) << 32;
}

/* tensors: image (batch, channels, rows, columns) in float32, of 1 or 3 channels, out, a map of 4, the last one zero.
   numbers: channels, rows, columns, height, width, numbers of out from one image and row to the next, whether grey fills
   the map on the right and below, or the image's outermost pixels. What is written is 2 x - 1. Rows of the flattened
   (batch, row of the map) axis. */
EXPORT void image_to_map(void *const *tensors, const int *numbers, int row_begin, int row_end) {
    const int channels = numbers[0], rows = numbers[1], columns = numbers[2], height = numbers[3], width = numbers[4];
    const int grey = numbers[7];
    const size_t plane = (size_t)rows * columns;
    for (int row = row_begin; row < row_end; row++) {
        const int batch = row / height, y = row % height;
        uint64_t *restrict to = (uint64_t *)((uint16_t *)tensors[1] + (size_t)batch * numbers[5] + (size_t)y * numbers[6]);
        if (grey) memset(to, 0, sizeof(uint64_t) * width);
        if (grey && y >= rows) continue;
        const float *restrict a = (const float *)tensors[0] + (size_t)batch * channels * plane + (size_t)within(y, rows - 1) * columns;
        const float *restrict b = a + plane, *restrict c = b + plane;
        if (channels == 3)
            for (int x = 0; x < columns; x++) to[x] = narrow_three(a[x], b[x], c[x]);
        else
            for (int x = 0; x < columns; x++) to[x] = narrow(2 * a[x] - 1);
        if (!grey)
            for (int x = columns; x < width; x++) to[x] = to[columns - 1];
    }
}

/* tensors: d (batch, height, width), w (batch, height / 4, width / 4), and of the first rows and columns out, valid
   (bytes) and confidence (batch, rows, columns). numbers: height, width, rows, columns, and whether a high w is good.
   Rows of the flattened (batch, row of the output) axis. */
EXPORT void finished_hypotheses(void *const *tensors, const int *numbers, int row_begin, int row_end) {
    const int height = numbers[0], width = numbers[1], rows = numbers[2], columns = numbers[3];
    const float sign = numbers[4] ? 4 : -4;
    float *sure = room(sizeof(float) * width);
    if (!sure) return;
    for (int row = row_begin; row < row_end; row++) {
        const size_t batch = row / rows, y = row % rows;
        const float *restrict d = (const float *)tensors[0] + (batch * height + y) * width;
        const float *restrict w = (const float *)tensors[1] + (batch * (height / 4) + y / 4) * (width / 4);
        float *restrict out = (float *)tensors[2] + (size_t)row * columns;
        unsigned char *restrict valid = (unsigned char *)tensors[3] + (size_t)row * columns;
        float *restrict confidence = (float *)tensors[4] + (size_t)row * columns;
        for (int x = 0; x < width; x++) sure[x] = 1 / (1 + exponential(2 - sign * w[x / 4]));
        for (int x = 0; x < columns; x++) {
            const int known = fabsf(d[x]) < INFINITY;
            valid[x] = (unsigned char)known;
            out[x] = known && d[x] > 0 ? d[x] : 0;
            confidence[x] = known && sure[x] >= 0 ? sure[x] : 0;
        }
    }
    free(sure);
}

/* tensors: hypotheses (batch, height, width, 16), out, a map; numbers: height, width, and numbers of out from one image,
   row and pixel to the next. Rows of the flattened (batch, row) axis. */
EXPORT void hypotheses_to_map(void *const *tensors, const int *numbers, int row_begin, int row_end) {
    const int height = numbers[0], width = numbers[1], image = numbers[2], row_step = numbers[3], pixel = numbers[4];
    for (int row = row_begin; row < row_end; row++) {
        const float *restrict from = (const float *)tensors[0] + (size_t)row * width * HYPOTHESIS;
        uint16_t *restrict to = (uint16_t *)tensors[1] + (size_t)(row / height) * image + (size_t)(row % height) * row_step;
        for (int x = 0; x < width; x++, from += HYPOTHESIS, to += pixel)
            for (int c = 0; c < HYPOTHESIS; c++) to[c] = narrow(from[c]);
    }
}

/* Each tile becomes 2 x 2: d moves along the plane, the rest is copied.
   tensors: hypotheses (batch, height, width, 16), step and scale, and where wanted out (batch, 2 height, 2 width, 16),
   its d alone (batch, 2 height, 2 width) and a map of it; numbers as of hypotheses_to_map, of the result. Rows of the
   flattened (batch, row of the result) axis. */
EXPORT void split_hypotheses(void *const *tensors, const int *numbers, int row_begin, int row_end) {
    const int height = numbers[0], width = numbers[1], image = numbers[2], row_step = numbers[3], pixel = numbers[4];
    const float step = ((const float *)tensors[1])[0], scale = ((const float *)tensors[1])[1];
    for (int row = row_begin; row < row_end; row++) {
        const int batch = row / height, y = row % height;
        const float *restrict from =
            (const float *)tensors[0] + ((size_t)batch * (height / 2) + y / 2) * (width / 2) * HYPOTHESIS;
        float *restrict out = tensors[2] ? (float *)tensors[2] + (size_t)row * width * HYPOTHESIS : NULL;
        float *restrict d = tensors[3] ? (float *)tensors[3] + (size_t)row * width : NULL;
        uint16_t *restrict map = (uint16_t *)tensors[4] + (size_t)batch * image + (size_t)y * row_step;
        for (int x = 0; x < width; x += 2, from += HYPOTHESIS)
            for (int side = 0; side < 2; side++) {
                float h[HYPOTHESIS];
                memcpy(h, from, sizeof h);
                h[0] = scale * h[0] + (side ? step : -step) * h[1] + (y % 2 ? step : -step) * h[2];
                if (out) memcpy(out + (size_t)(x + side) * HYPOTHESIS, h, sizeof h);
                if (d) d[x + side] = h[0];
                for (int c = 0; c < HYPOTHESIS; c++) map[(size_t)(x + side) * pixel + c] = narrow(h[c]);
            }
    }
}

/* Adds updates and keeps the better of two hypotheses.
   tensors: first, second (tiles, 16), the latter may be NULL, updates (tiles, channels): those of the first, of the
   second, and a w for each; out (tiles, 16), w (tiles); numbers: tiles a row, channels, whether the highest w wins, and rows an image.
   Rows of the flattened (batch, row) axis. */
EXPORT void choose_hypotheses(void *const *tensors, const int *numbers, int row_begin, int row_end) {
    const int tiles = numbers[0], channels = numbers[1], highest = numbers[2];
    const float *first = tensors[0], *second = tensors[1], *updates = tensors[2];
    float *restrict out = tensors[3], *restrict w = tensors[4];
    for (size_t tile = (size_t)row_begin * tiles; tile < (size_t)row_end * tiles; tile++) {
        const float *update = updates + tile * channels, *h = first + tile * HYPOTHESIS;
        const float *ws = update + (second ? 2 : 1) * HYPOTHESIS;
        w[tile] = ws[0];
        if (second && (highest ? ws[1] > ws[0] : ws[1] < ws[0])) {
            h = second + tile * HYPOTHESIS;
            update += HYPOTHESIS;
            w[tile] = ws[1];
        }
        for (int c = 0; c < HYPOTHESIS; c++) out[tile * HYPOTHESIS + c] = h[c] + update[c];
    }
}

#if defined(__AVX512F__) && defined(__x86_64__)
#include <immintrin.h>

#define DOTS __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512bf16")))
#define INLINE static inline __attribute__((always_inline))

/* Sixteen channels, the even ones and the odd ones, of two pixels: 8 of the first and 8 of the second. */
typedef struct {
    __m512 even, odd;
} Two;

INLINE DOTS Two two(const uint16_t *first, const uint16_t *second, __mmask16 mask) {
    const __m256i low = _mm256_maskz_loadu_epi16(mask, first), high = _mm256_maskz_loadu_epi16(mask, second);
    const __m512i both = _mm512_inserti64x4(_mm512_castsi256_si512(low), high, 1);
    const __m512i odd = _mm512_and_si512(both, _mm512_set1_epi32((int)0xffff0000));
    return (Two){_mm512_castsi512_ps(_mm512_slli_epi32(both, 16)), _mm512_castsi512_ps(odd)};
}

INLINE DOTS __m512 distance(__m512 e, __m512 near, __m512 far, __m512 weight) {
    return _mm512_abs_ps(_mm512_sub_ps(e, _mm512_fmadd_ps(weight, _mm512_sub_ps(far, near), near)));
}

/* a, b, c, d of (2 pixels, 8 parts) to 2 x (2 parts of pixel 0, 2 of pixel 1) x (a, b, c, d). */
INLINE DOTS __m512 gathered(__m512 a, __m512 b, __m512 c, __m512 d) {
    const __m512 ab = _mm512_add_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
    const __m512 cd = _mm512_add_ps(_mm512_unpacklo_ps(c, d), _mm512_unpackhi_ps(c, d));
    return _mm512_add_ps(_mm512_shuffle_ps(ab, cd, 0x44), _mm512_shuffle_ps(ab, cd, 0xee));
}

/* The costs of the two pixels from left on, whose right columns begin at first and second. */
INLINE DOTS __m512 costs_of_two(const uint16_t *left, const uint16_t *first, const uint16_t *second,
                                const float *weights, const int channels, int pitch) {
    const __m512 weight = _mm512_insertf32x8(_mm512_set1_ps(weights[0]), _mm256_set1_ps(weights[1]), 1);
    __m512 norm = _mm512_setzero_ps(), near = norm, here = norm, far = norm;
    for (int c = 0; c < channels; c += 16) {
        const __mmask16 mask = (__mmask16)(channels - c < 16 ? (1u << (channels - c)) - 1 : 0xffff);
        const Two e = two(left + c, left + pitch + c, mask);
        Two s[4];
#pragma clang loop unroll(full)
        for (int k = 0; k < 4; k++) s[k] = two(first + k * pitch + c, second + k * pitch + c, mask);
        norm = _mm512_add_ps(norm, _mm512_add_ps(_mm512_abs_ps(e.even), _mm512_abs_ps(e.odd)));
        near = _mm512_add_ps(near, _mm512_add_ps(distance(e.even, s[2].even, s[3].even, weight),
                                                 distance(e.odd, s[2].odd, s[3].odd, weight)));
        here = _mm512_add_ps(here, _mm512_add_ps(distance(e.even, s[1].even, s[2].even, weight),
                                                 distance(e.odd, s[1].odd, s[2].odd, weight)));
        far = _mm512_add_ps(far, _mm512_add_ps(distance(e.even, s[0].even, s[1].even, weight),
                                               distance(e.odd, s[0].odd, s[1].odd, weight)));
    }
    return gathered(norm, near, here, far);
}

#define BORDER 4 /* columns that a row is continued by */

/* What one row of pixels needs: the right row, continued at both borders by its outermost pixels, and for each pixel the
   first of its four columns there and the weight of the right neighbour. */
typedef struct {
    uint16_t *right;
    int *first;
    float *weight;
} Line;

INLINE DOTS void prepare(const Line *line, const uint16_t *right, const float *hypotheses, float row, int width, int pitch) {
    for (int x = -BORDER; x < width + BORDER; x++)
        if (x < 0 || x >= width)
            memcpy(line->right + (size_t)(x + BORDER) * pitch, right + (size_t)within(x, width - 1) * pitch, 2 * pitch);
    memcpy(line->right + (size_t)BORDER * pitch, right, (size_t)2 * pitch * width);
    const float last = (float)width + 1;
    for (int x = 0; x < width; x++) {
        const float *h = hypotheses + (size_t)(x / 4) * HYPOTHESIS;
        float position = (float)x - (h[0] + row * h[2] + ((float)(x % 4) - 1.5f) * h[1]);
        /* beyond the borders every sample is the outermost pixel; NaN goes there too */
        position = position > -2.0f ? position : -2.0f;
        position = position < last ? position : last;
        const float low = floorf(position);
        line->first[x] = ((int)low - 1 + BORDER) * pitch;
        line->weight[x] = position - low;
    }
}

INLINE DOTS void costs_of_row(const Line *line, const uint16_t *left, uint16_t *out, int width, const int channels,
                              int pitch) {
    for (int x = 0; x < width; x += 4, out += 64) {
        const int *at = line->first + x;
        const float *weight = line->weight + x;
        const uint16_t *e = left + (size_t)x * pitch, *r = line->right;
        const __m512 low = costs_of_two(e, r + at[0], r + at[1], weight, channels, pitch);
        const __m512 high = costs_of_two(e + 2 * pitch, r + at[2], r + at[3], weight + 2, channels, pitch);
        const __m512 costs = _mm512_add_ps(_mm512_shuffle_f32x4(low, high, 0x88), _mm512_shuffle_f32x4(low, high, 0xdd));
        _mm256_storeu_si256((__m256i *)out, (__m256i)_mm512_cvtneps_pbh(costs));
    }
}

/* tensors: left, right features, hypotheses (batch, height / 4, width / 4, 16), out, a map of 64 channels: (row, column,
   kind). numbers: height, width, channels and pitch of the features, and numbers of features and of out from one image
   and row to the next. Rows of tiles of the flattened (batch, row) axis. */
EXPORT DOTS void tile_warp_cost_bf16(void *const *tensors, const int *numbers, int row_begin, int row_end) {
    const int height = numbers[0], width = numbers[1], channels = numbers[2], pitch = numbers[3];
    const int image = numbers[4], row_step = numbers[5], out_image = numbers[6], out_row = numbers[7];
    const int tile_rows = height / 4;
    Line line = {room(2 * pitch * ((size_t)width + 2 * BORDER)), room(sizeof(int) * width), room(sizeof(float) * width)};
    if (!line.right || !line.first || !line.weight) row_begin = row_end;
    for (int row = row_begin; row < row_end; row++) {
        const size_t batch = row / tile_rows, y = row % tile_rows;
        const float *hypotheses = (const float *)tensors[2] + (size_t)row * (width / 4) * HYPOTHESIS;
        for (int i = 0; i < 4; i++) {
            const size_t offset = batch * image + (4 * y + i) * row_step;
            const uint16_t *left = (const uint16_t *)tensors[0] + offset;
            uint16_t *out = (uint16_t *)tensors[3] + batch * out_image + y * out_row + 16 * i;
            prepare(&line, (const uint16_t *)tensors[1] + offset, hypotheses, (float)i - 1.5f, width, pitch);
            if (channels == 16)
                costs_of_row(&line, left, out, width, 16, pitch);
            else
                costs_of_row(&line, left, out, width, channels, pitch);
        }
    }
    free(line.right);
    free(line.first);
    free(line.weight);
}
#endif
