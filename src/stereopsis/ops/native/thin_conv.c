/* Convolutions of ops/thin_conv.py and ops/canvas.py, which hold the references. Tensors are contiguous float32.

   Rows of the input are made ready (normalised, pooled, padded with zeros) in a strip of memory that fits the cache,
   slice after slice, channel after channel and row after row; a block of outputs then stays in registers while all
   planes of the strip pass by. */

#include "kernels.h"

#if defined(__AVX512F__)
#define LANES 16
#define REGISTERS 16 /* of sums: half of what there is, as wide vectors and weights need some too */
#else
#define LANES 8
#define REGISTERS 8
#endif
#define BLOCK 8             /* outputs at once */
#define STRIP (384 * 1024)  /* bytes, within a core's second cache */
#define MARGIN (2 * LANES)  /* columns before and behind a ready row that vectors may touch */

typedef float Vector __attribute__((vector_size(4 * LANES)));
typedef float Unaligned __attribute__((vector_size(4 * LANES), aligned(4)));

/* A strip of ready rows: that of column -1 and row -1 comes first. */
typedef struct {
    float *values;
    size_t row, plane; /* floats from one to the next */
    int rows;
} Strip;

static int new_strip(Strip *strip, int planes, int width, int height) {
    strip->row = (size_t)(width + LANES - 1) / LANES * LANES + 2 * MARGIN;
    int rows = (int)(STRIP / (sizeof(float) * strip->row * planes)) - 2;
    strip->rows = rows < 4 ? 4 : rows > height ? height : rows;
    strip->plane = (strip->rows + 2) * strip->row;
    strip->values = room(planes * strip->plane * sizeof(float));
    if (strip->values) memset(strip->values, 0, planes * strip->plane * sizeof(float));
    return !strip->values;
}

static float *ready_row(const Strip *strip, int plane, int row) {
    return strip->values + plane * strip->plane + (row + 1) * strip->row + MARGIN;
}

static inline float larger(float a, float b) { return b > a || b != b ? b : a; } /* NaN stays */

static inline float positive(float a) { return a < 0 ? 0 : a; }

static inline __attribute__((always_inline)) void write_out(float *out, Vector sum, int x, int width, int stride) {
    if (stride == 1 && x + LANES <= width)
        *(Unaligned *)(out + x) = sum;
    else
        for (int i = 0; i < LANES; i += stride)
            if (x + i < width) out[(x + i) / stride] = sum[i];
}

/* A block of outputs at `wide` vectors of columns of one row. weights (planes, 3, 3, outputs). */
static inline __attribute__((always_inline)) void sums(const Strip *strip, const float *first, int planes,
                                                       const float *weights, const float *bias, float *out,
                                                       size_t out_plane, int x, int width, int stride,
                                                       const int outputs, const int wide) {
    Vector sum[BLOCK * 4];
#pragma clang loop unroll(full)
    for (int o = 0; o < outputs; o++)
#pragma clang loop unroll(full)
        for (int i = 0; i < wide; i++) sum[o * wide + i] = bias[o] - (Vector){0};
    for (int plane = 0; plane < planes; plane++, first += strip->plane)
        for (int ky = 0; ky < 3; ky++)
#pragma clang loop unroll(full)
            for (int kx = 0; kx < 3; kx++, weights += outputs) {
                const float *at = first + ky * strip->row + x + kx;
                Vector value[4];
#pragma clang loop unroll(full)
                for (int i = 0; i < wide; i++) value[i] = *(const Unaligned *)(at + i * LANES);
#pragma clang loop unroll(full)
                for (int o = 0; o < outputs; o++)
#pragma clang loop unroll(full)
                    for (int i = 0; i < wide; i++) sum[o * wide + i] += weights[o] * value[i];
            }
#pragma clang loop unroll(full)
    for (int o = 0; o < outputs; o++)
#pragma clang loop unroll(full)
        for (int i = 0; i < wide; i++) write_out(out + o * out_plane, sum[o * wide + i], x + i * LANES, width, stride);
}

static inline __attribute__((always_inline)) void row_of(const Strip *strip, const float *first, int planes,
                                                         const float *weights, const float *bias, float *out,
                                                         size_t out_plane, int width, int stride, const int outputs) {
    const int wide = REGISTERS / outputs < 4 ? REGISTERS / outputs : 4;
    int x = 0;
    for (; x + (wide - 1) * LANES < width; x += wide * LANES)
        sums(strip, first, planes, weights, bias, out, out_plane, x, width, stride, outputs, wide);
    for (; x < width; x += LANES)
        sums(strip, first, planes, weights, bias, out, out_plane, x, width, stride, outputs, 1);
}

/* One row of all outputs. weights: of a block of outputs after the other, each (planes, 3, 3, block). */
static void convolve_row(const Strip *strip, const float *first, int planes, int skipped, int all, const float *weights,
                         const float *bias, float *out, size_t out_plane, int width, int stride, int outputs) {
    for (int o = 0, block; o < outputs; o += block) {
        block = outputs - o >= 8 ? 8 : outputs - o >= 4 ? 4 : outputs - o >= 2 ? 2 : 1;
        const float *w = weights + (size_t)o * all * 9 + (size_t)skipped * 9 * block;
        float *to = out + o * out_plane;
        if (block == 8) row_of(strip, first, planes, w, bias + o, to, out_plane, width, stride, 8);
        if (block == 4) row_of(strip, first, planes, w, bias + o, to, out_plane, width, stride, 4);
        if (block == 2) row_of(strip, first, planes, w, bias + o, to, out_plane, width, stride, 2);
        if (block == 1) row_of(strip, first, planes, w, bias + o, to, out_plane, width, stride, 1);
    }
}

/* kernel (outputs, channels, steps, 3, 3) in the order of convolve_row, and the bias, 0 where there is none; planes are
   (step, channel). */
static float *packed(const float *kernel, const float *bias, int outputs, int channels, int steps) {
    const int planes = steps * channels;
    float *weights = room(sizeof(float) * outputs * (planes * 9 + 1)), *to = weights + outputs;
    if (!weights) return NULL;
    for (int o = 0; o < outputs; o++) weights[o] = bias ? bias[o] : 0;
    for (int o = 0, block; o < outputs; o += block) {
        block = outputs - o >= 8 ? 8 : outputs - o >= 4 ? 4 : outputs - o >= 2 ? 2 : 1;
        for (int step = 0; step < steps; step++)
            for (int c = 0; c < channels; c++)
                for (int tap = 0; tap < 9; tap++)
                    for (int i = 0; i < block; i++)
                        *to++ = kernel[(((size_t)(o + i) * channels + c) * steps + step) * 9 + tap];
    }
    return weights;
}

/* One row of a source: normalised and without what is negative, and pooled before that where its rows come in twos. */
static void prepare(const float *restrict row, const float *restrict below, float *restrict out, int width, float scale,
                    float shift, int relu) {
    if (below)
        for (int x = 0; x < width; x++)
            out[x] = larger(larger(row[2 * x], row[2 * x + 1]), larger(below[2 * x], below[2 * x + 1])) * scale + shift;
    else
        for (int x = 0; x < width; x++) out[x] = row[x] * scale + shift;
    if (relu)
        for (int x = 0; x < width; x++) out[x] = positive(out[x]);
}

/* tensors: first and second (batch, c1 or c2, slices, height, width), the second may be NULL; weight, bias, mean and
   variance of a normalisation of their channels, the first may be NULL, and what is added to the variance; kernel
   (outputs, c1 + c2, steps, 3, 3) with 1 or 3 steps over the slices; bias, may be NULL; out (batch, outputs, slices,
   rows, columns). numbers: c1, c2, slices, height, width, outputs, steps,
   stride, pool, relu, rows, columns; pool: the largest of 2 x 2 pixels comes first of all. Rows of the flattened (batch, row of the output)
   axis. */
EXPORT void thin_conv(void *const *tensors, const int *numbers, int row_begin, int row_end) {
    const float *first = tensors[0], *second = tensors[1], *const *norm = (const float *const *)tensors + 2;
    const float *kernel = tensors[7], *bias = tensors[8];
    float *out = tensors[9];
    const int c1 = numbers[0], c2 = numbers[1], slices = numbers[2], height = numbers[3], width = numbers[4];
    const int outputs = numbers[5], steps = numbers[6], stride = numbers[7], pool = numbers[8], relu = numbers[9];
    const int channels = c1 + c2, planes = slices * channels, all = steps * channels;
    const int wide = pool ? width / 2 : width, high = pool ? height / 2 : height;
    const int columns = (wide + stride - 1) / stride, rows = (high + stride - 1) / stride;
    const size_t size = (size_t)height * width, out_slice = (size_t)rows * columns;
    float *weights = packed(kernel, bias, outputs, channels, steps), *scale = room(sizeof(float) * 2 * channels);
    Strip strip;
    if (new_strip(&strip, planes, wide, high) || !weights || !scale) row_begin = row_end;
    float *shift = scale + channels;
    for (int c = 0; row_begin < row_end && c < channels; c++) {
        scale[c] = norm[0] ? norm[0][c] / sqrtf(norm[3][c] + *norm[4]) : 1;
        shift[c] = norm[0] ? norm[1][c] - norm[2][c] * scale[c] : 0;
    }
    const int most = (strip.rows - 1) / stride + 1; /* rows of the output that a strip serves */
    for (int row = row_begin, count; row < row_end; row += count) {
        const int sample = row / rows, y = row % rows;
        count = row_end - row < most ? row_end - row : most;
        count = count < rows - y ? count : rows - y;
        for (int plane = 0; plane < planes; plane++) {
            const int slice = plane / channels, c = plane % channels;
            const float *source = c < c1 ? first + ((size_t)(sample * c1 + c) * slices + slice) * size
                                         : second + ((size_t)(sample * c2 + c - c1) * slices + slice) * size;
            for (int i = -1; i <= (count - 1) * stride + 1; i++) {
                const int at = y * stride + i;
                const float *from = source + (size_t)at * (pool ? 2 : 1) * width;
                float *to = ready_row(&strip, plane, i);
                if (at < 0 || at >= high)
                    memset(to, 0, sizeof(float) * wide);
                else
                    prepare(from, pool ? from + width : NULL, to, wide, scale[c], shift[c], relu);
            }
        }
        for (int slice = 0; slice < slices; slice++) {
            /* steps beyond the first and the last slice see zeros: they are left out */
            const int from = steps == 1 || slice > 0 ? slice - steps / 2 : slice;
            const int to = steps == 1 || slice < slices - 1 ? slice + steps / 2 : slice;
            const int skipped = (from - slice + steps / 2) * channels;
            for (int i = 0; i < count; i++)
                convolve_row(&strip, ready_row(&strip, from * channels, i * stride - 1) - 1, (to - from + 1) * channels,
                             skipped, all, weights + outputs, weights,
                             out + ((size_t)sample * outputs * slices + slice) * out_slice + (size_t)(y + i) * columns,
                             slices * out_slice, wide, stride, outputs);
        }
    }
    free(strip.values);
    free(weights);
    free(scale);
}

/* One row of an image, scaled, shifted and padded to a width; outside of it the outermost pixel or 0. */
static void drawn_row(const float *restrict row, float *restrict out, float scale, float shift, int inside, int width,
                      int left, int size, int repeat) {
    const float before = inside && repeat ? row[0] * scale + shift : 0;
    const float after = inside && repeat ? row[width - 1] * scale + shift : 0;
    for (int x = 0; x < left; x++) out[x] = before;
    for (int x = 0; x < width; x++) out[left + x] = inside ? row[x] * scale + shift : 0;
    for (int x = left + width; x < size; x++) out[x] = after;
}

/* Where an image of height x width lies on a canvas of rows x columns. One channel serves as three. */
typedef struct {
    int channels, height, width, rows, columns, top, left, repeat;
} Place;

static void drawn(const float *image, float *out, const float *scale, const float *shift, int c, int y, Place p) {
    const int inside = p.repeat || (y >= p.top && y < p.top + p.height);
    const int row = y < p.top ? 0 : y - p.top >= p.height ? p.height - 1 : y - p.top;
    drawn_row(image + ((size_t)(c % p.channels) * p.height + row) * p.width, out, scale[c], shift[c], inside, p.width,
              p.left, p.columns, p.repeat);
}

static Place placed(const int *n) { return (Place){n[0], n[1], n[2], n[3], n[4], n[5], n[6], n[7]}; }

/* tensors: scale, shift, kernel (outputs, 3, 3, 3), bias, out (images, batch, outputs, rows, columns) and the images
   (batch, channels, height, width); rows of the flattened (image, batch, row) axis. */
EXPORT void canvas_conv(void *const *tensors, const int *numbers, int row_begin, int row_end) {
    const float *scale = tensors[0], *shift = tensors[1], *kernel = tensors[2], *bias = tensors[3];
    const float *const *images = (const float *const *)tensors + 5;
    float *out = tensors[4];
    const Place p = placed(numbers);
    const int batch = numbers[8], outputs = numbers[9];
    const size_t size = (size_t)p.rows * p.columns;
    float *weights = packed(kernel, bias, outputs, 3, 1);
    Strip strip;
    if (new_strip(&strip, 3, p.columns, p.rows) || !weights) row_begin = row_end;
    for (int row = row_begin, count; row < row_end; row += count) {
        const int sample = row / p.rows, y = row % p.rows;
        const float *image = images[sample / batch] + (size_t)(sample % batch) * p.channels * p.height * p.width;
        count = row_end - row < strip.rows ? row_end - row : strip.rows;
        count = count < p.rows - y ? count : p.rows - y;
        for (int c = 0; c < 3; c++)
            for (int i = -1; i <= count; i++) {
                if (y + i < 0 || y + i >= p.rows)
                    memset(ready_row(&strip, c, i), 0, sizeof(float) * p.columns);
                else
                    drawn(image, ready_row(&strip, c, i), scale, shift, c, y + i, p);
            }
        for (int i = 0; i < count; i++)
            convolve_row(&strip, ready_row(&strip, 0, i - 1) - 1, 3, 0, 3, weights + outputs, weights,
                         out + (size_t)sample * outputs * size + (size_t)(y + i) * p.columns, size, p.columns, 1,
                         outputs);
    }
    free(strip.values);
    free(weights);
}

/* tensors: scale, shift, image (batch, channels, height, width) and out (batch, 3, rows / factor, columns / factor): the
   four pixels in the middle of each block; rows of the flattened (batch, row of the output) axis. */
EXPORT void canvas_reduced(void *const *tensors, const int *numbers, int row_begin, int row_end) {
    const float *scale = tensors[0], *shift = tensors[1], *image = tensors[2];
    float *out = tensors[3];
    const Place p = placed(numbers);
    const int factor = numbers[8];
    const int rows = p.rows / factor, columns = p.columns / factor;
    float *upper = room(sizeof(float) * 2 * p.columns), *lower = upper + p.columns;
    if (!upper) return;
    for (int row = row_begin; row < row_end; row++) {
        const int sample = row / rows, y = row % rows * factor + factor / 2;
        const float *from = image + (size_t)sample * p.channels * p.height * p.width;
        for (int c = 0; c < 3; c++) {
            float *to = out + (((size_t)sample * 3 + c) * rows + row % rows) * columns;
            drawn(from, upper, scale, shift, c, y - 1, p);
            drawn(from, lower, scale, shift, c, y, p);
            for (int x = 0; x < columns; x++) {
                const int at = x * factor + factor / 2;
                to[x] = 0.25f * (upper[at - 1] + upper[at] + lower[at - 1] + lower[at]);
            }
        }
    }
    free(upper);
}
