/* Averages of ops/kernel_average.py, which holds the reference. Tensors are contiguous float32. */

#include "kernels.h"

static const float EMPTY = 1e-6f;

/* The four neighbours of a sample: where they are, their bilinear share (0 outside), and the share of what is known. */
typedef struct {
    int at[4];
    float share[4], known[4];
    float x, y; /* position between the neighbours */
} Neighbours;

static inline __attribute__((always_inline)) Neighbours neighbours(float sx, float sy, const float *restrict mask,
                                                                   int x, int y, int height, int width, int radius,
                                                                   int masked) {
    const float limit = radius + 1;
    Neighbours n;
    sx = fminf(fmaxf(sx, -limit), limit);
    sy = fminf(fmaxf(sy, -limit), limit);
    const float left = floorf(sx), top = floorf(sy);
    n.x = sx - left;
    n.y = sy - top;
    for (int corner = 0; corner < 4; corner++) {
        const int dx = (int)left + (corner & 1), dy = (int)top + (corner >> 1);
        const int column = x + dx, row = y + dy;
        const int inside = (column >= 0) & (column < width) & (row >= 0) & (row < height) & (dx >= -radius) &
                           (dx <= radius) & (dy >= -radius) & (dy <= radius);
        const int near_column = column < 0 ? 0 : column >= width ? width - 1 : column;
        const int near_row = row < 0 ? 0 : row >= height ? height - 1 : row;
        n.at[corner] = near_row * width + near_column;
        n.share[corner] = inside ? 1.0f : 0.0f;
        n.known[corner] = masked ? n.share[corner] * mask[n.at[corner]] : n.share[corner];
    }
    return n;
}

/* One row: sums over the samples of w a, a (channel after channel), w c and c. weights and shifts point to the row in the
   first of their planes. */
static inline __attribute__((always_inline)) void sums(const float *restrict values, const float *restrict weights,
                                                       const float *restrict shifts, const float *restrict mask,
                                                       float *restrict weighted, float *restrict plain,
                                                       float *restrict weight, float *restrict support, int y,
                                                       size_t plane, int channels, int samples, int height, int width,
                                                       int radius, int zeros_outside, int masked) {
    const size_t size = (size_t)height * width;
    memset(weighted, 0, sizeof(float) * channels * width);
    memset(plain, 0, sizeof(float) * channels * width);
    memset(weight, 0, sizeof(float) * width);
    memset(support, 0, sizeof(float) * width);
    for (int channel = 0; channel < channels; channel++) {
        const float *restrict f = values + channel * size;
        float *restrict to_weighted = weighted + (size_t)channel * width;
        float *restrict to_plain = plain + (size_t)channel * width;
        for (int sample = 0; sample < samples; sample++) {
            const float *restrict w = weights + sample * plane;
            const float *restrict sx = shifts + 2 * sample * plane;
            const float *restrict sy = sx + plane;
#pragma clang loop vectorize(enable)
            for (int x = 0; x < width; x++) {
                const Neighbours n = neighbours(sx[x], sy[x], mask, x, y, height, width, radius, masked);
                const float gx[2] = {1 - n.x, n.x}, gy[2] = {1 - n.y, n.y};
                float a = 0, c = zeros_outside ? 1.0f : 0.0f;
                for (int i = 0; i < 4; i++) {
                    const float g = gx[i & 1] * gy[i >> 1];
                    a += g * n.share[i] * f[n.at[i]];
                    c += g * (zeros_outside ? n.known[i] - n.share[i] : n.known[i]);
                }
                to_weighted[x] += w[x] * a;
                to_plain[x] += a;
                if (channel == 0) {
                    weight[x] += w[x] * c;
                    support[x] += c;
                }
            }
        }
    }
}

static inline int covered(float weight, float support) { return support > EMPTY && weight > EMPTY * EMPTY; }

/* What the averages of a map have in common; mask may be NULL, and values are 0 where it is. */
typedef struct {
    int channels, samples, height, width, radius, residual, zeros_outside;
} Options;

/* One row of one sample of the batch: out (channels, height, width) and share (height, width). sums_room is of
   2 channels + 2 rows. */
static void average_row(const float *values, const float *weights, const float *shifts, const float *mask, float *out,
                        float *share, float *sums_room, int y, size_t plane, Options o) {
    const size_t size = (size_t)o.height * o.width;
    float *weighted = sums_room, *plain = weighted + (size_t)o.channels * o.width;
    float *weight = plain + (size_t)o.channels * o.width, *support = weight + o.width;
    if (mask)
        sums(values, weights, shifts, mask, weighted, plain, weight, support, y, plane, o.channels, o.samples, o.height,
             o.width, o.radius, o.zeros_outside, 1);
    else
        sums(values, weights, shifts, mask, weighted, plain, weight, support, y, plane, o.channels, o.samples, o.height,
             o.width, o.radius, o.zeros_outside, 0);
    for (int channel = 0; channel < o.channels; channel++) {
        float *to = out + channel * size + (size_t)y * o.width;
        const float *wa = weighted + (size_t)channel * o.width, *a = plain + (size_t)channel * o.width;
        for (int x = 0; x < o.width; x++) {
            const float result = o.residual ? wa[x] - weight[x] / support[x] * a[x] : wa[x] / weight[x];
            to[x] = covered(weight[x], support[x]) ? result : 0;
        }
    }
    float *to = share + (size_t)y * o.width;
    for (int x = 0; x < o.width; x++) to[x] = covered(weight[x], support[x]) ? support[x] / o.samples : 0;
}

/* tensors: values (batch, channels, height, width), weights (batch, samples, height, width), shifts (batch, 2 samples,
   height, width), mask, out of the values' shape and support (batch, 1, height, width); numbers: Options; rows of the
   flattened (batch, height) axis. */
EXPORT void kernel_average(void *const *tensors, const int *numbers, int row_begin, int row_end) {
    const float *values = tensors[0], *weights = tensors[1], *shifts = tensors[2], *mask = tensors[3];
    float *out = tensors[4], *support = tensors[5];
    const Options o = {numbers[0], numbers[1], numbers[2], numbers[3], numbers[4], numbers[5], numbers[6]};
    const size_t size = (size_t)o.height * o.width;
    float *own = room(sizeof(float) * o.width * (2 * (size_t)o.channels + 2));
    if (!own) return;
    for (int row = row_begin; row < row_end; row++) {
        const int y = row % o.height;
        const size_t b = row / o.height, at = (size_t)y * o.width;
        average_row(values + b * o.channels * size, weights + b * o.samples * size + at,
                    shifts + 2 * b * o.samples * size + at, mask ? mask + b * size : NULL, out + b * o.channels * size,
                    support + b * size, own, y, size, o);
    }
    free(own);
}

/* One block of pixels' maps, channel after channel, as float32; half: of bfloat16. */
static void widened(const void *maps, size_t at, int count, int half, float *restrict to) {
    const unsigned short *restrict halves = (const unsigned short *)maps + at;
    if (!half)
        memcpy(to, (const float *)maps + at, sizeof(float) * count);
    else
        for (int i = 0; i < count; i++) {
            const unsigned bits = (unsigned)halves[i] << 16;
            memcpy(to + i, &bits, sizeof bits);
        }
}

/* tensors: values, mask, out and support as above; maps (batch, rows, columns, 3 samples, block, block) and guide, of as
   many or fewer samples of the batch, may be NULL, both before the sigmoid of the first third; grid (2 samples) and the
   factor of what is added to it. numbers: Options, block, rows, columns, how often each guide serves, and whether maps
   and guide are of bfloat16. Rows of the flattened (batch, row of blocks) axis: weights and shifts stay in the cache. */
EXPORT void guided_average(void *const *tensors, const int *numbers, int row_begin, int row_end) {
    const float *values = tensors[0], *mask = tensors[1], *grid = tensors[6], *squeeze = tensors[7];
    float *out = tensors[2], *support = tensors[3];
    const void *maps = tensors[4], *guide = tensors[5];
    const Options o = {numbers[0], numbers[1], numbers[2], numbers[3], numbers[4], numbers[5], numbers[6]};
    const int block = numbers[7], rows = numbers[8], columns = numbers[9], each = numbers[10], half = numbers[11];
    const int area = block * block, count = 3 * o.samples * area, weights = o.samples * area;
    const size_t size = (size_t)o.height * o.width, line = (size_t)columns * block, plane = line * block;
    float *sums_room = room(sizeof(float) * o.width * (2 * (size_t)o.channels + 2));
    float *kernels = room(sizeof(float) * 3 * o.samples * plane), *restrict own = room(sizeof(float) * count);
    float *restrict other = room(sizeof(float) * count);
    if (!sums_room || !kernels || !own || !other) row_begin = row_end;
    for (int i = 0; other && i < count; i++) other[i] = 1;
    for (int row = row_begin; row < row_end; row++) {
        const size_t b = row / rows;
        for (int x = 0; x < columns; x++) {
            widened(maps, ((size_t)row * columns + x) * count, count, half, own);
            if (guide) widened(guide, ((b / each * rows + row % rows) * columns + x) * count, count, half, other);
            for (int i = 0; i < weights; i++)
                own[i] = 1 / ((1 + exponential(-own[i])) * (guide ? 1 + exponential(-other[i]) : 1));
            for (int i = weights; i < count; i++) own[i] *= other[i];
            for (int c = 0; c < 3 * o.samples; c++) {
                const int shift = c >= o.samples;
                const float factor = shift ? *squeeze : 1, centre = shift ? grid[c - o.samples] : 0;
                float *from = own + c * area, *to = kernels + c * plane + (size_t)x * block;
                for (int i = 0; i < area; i++) from[i] = centre + factor * from[i];
                for (int i = 0; i < block; i++)
                    if (block == 4) /* of a known size, and so without a call */
                        memcpy(to + i * line, from + i * 4, sizeof(float) * 4);
                    else
                        memcpy(to + i * line, from + i * block, sizeof(float) * block);
            }
        }
        for (int i = 0; i < block; i++) {
            const int y = row % rows * block + i;
            if (y < o.height)
                average_row(values + b * o.channels * size, kernels + i * line, kernels + o.samples * plane + i * line,
                            mask ? mask + b * size : NULL, out + b * o.channels * size, support + b * size, sums_room, y,
                            plane, o);
        }
    }
    free(sums_room);
    free(kernels);
    free(own);
    free(other);
}

static inline __attribute__((always_inline)) void backward_row(
    const float *restrict values, const float *restrict weights, const float *restrict shifts,
    const float *restrict mask, const float *restrict grad, float *restrict grad_values, float *restrict grad_weights,
    float *restrict grad_shifts, const float *restrict scale, const float *restrict centre,
    const float *restrict reference, int y, int channels, int samples, int height, int width, int radius,
    int zeros_outside, int masked, int scatter) {
    const size_t size = (size_t)height * width, row = (size_t)y * width;
    const float limit = radius + 1;
    for (int sample = 0; sample < samples; sample++) {
        const float *restrict w = weights + sample * size + row;
        const float *restrict sx = shifts + 2 * sample * size + row;
        const float *restrict sy = sx + size;
        float *restrict grad_w = grad_weights + sample * size + row;
        float *restrict grad_x = grad_shifts + 2 * sample * size + row;
        float *restrict grad_y = grad_x + size;
        memset(grad_w, 0, sizeof(float) * width);
        memset(grad_x, 0, sizeof(float) * width);
        memset(grad_y, 0, sizeof(float) * width);
        for (int channel = 0; channel < channels; channel++) {
            const float *restrict f = values + channel * size;
            const float *restrict g = grad + channel * size + row;
            const float *restrict ref = reference + (size_t)channel * width;
            float *restrict to = scatter ? grad_values + channel * size : grad_values;
            for (int x = 0; x < width; x++) {
                const Neighbours n = neighbours(sx[x], sy[x], mask, x, y, height, width, radius, masked);
                const float gx[2] = {1 - n.x, n.x}, gy[2] = {1 - n.y, n.y};
                const float scaled = g[x] * scale[x], own = scaled * (w[x] - centre[x]);
                float whole = 0, along_x = 0, along_y = 0;
                for (int i = 0; i < 4; i++) {
                    const float known = zeros_outside ? 1 - n.share[i] + n.known[i] : n.known[i];
                    const float excess = n.share[i] * f[n.at[i]] - known * ref[x];
                    whole += gx[i & 1] * gy[i >> 1] * excess;
                    along_x += (i & 1 ? gy[i >> 1] : -gy[i >> 1]) * excess;
                    along_y += (i >> 1 ? gx[i & 1] : -gx[i & 1]) * excess;
                    if (scatter) to[n.at[i]] += own * gx[i & 1] * gy[i >> 1] * n.known[i];
                }
                grad_w[x] += scaled * whole;
                grad_x[x] += fabsf(sx[x]) <= limit ? own * along_x : 0;
                grad_y[x] += fabsf(sy[x]) <= limit ? own * along_y : 0;
            }
        }
    }
}

/* Gradients of kernel_average. tensors: values, weights, shifts, mask, that of out, and those of values, weights and
   shifts; numbers and rows as of kernel_average. That of the values may be NULL; otherwise it starts at 0 and a call takes
   whole maps. */
EXPORT void kernel_average_backward(void *const *tensors, const int *numbers, int row_begin, int row_end) {
    const float *restrict values = tensors[0], *restrict weights = tensors[1], *restrict shifts = tensors[2];
    const float *restrict mask = tensors[3], *restrict grad = tensors[4];
    float *restrict grad_values = tensors[5], *restrict grad_weights = tensors[6], *restrict grad_shifts = tensors[7];
    const int channels = numbers[0], samples = numbers[1], height = numbers[2], width = numbers[3], radius = numbers[4];
    const int residual = numbers[5], zeros_outside = numbers[6];
    const size_t size = (size_t)height * width;
    float *weighted = room(sizeof(float) * width * (2 * (size_t)channels + 4));
    if (!weighted) return;
    float *plain = weighted + (size_t)channels * width, *weight = plain + (size_t)channels * width;
    float *support = weight + width, *scale = support + width, *centre = scale + width;
    for (int index = row_begin; index < row_end; index++) {
        const int y = index % height;
        const size_t b = index / height, at = (size_t)y * width;
        const float *f = values + b * channels * size, *w = weights + b * samples * size;
        const float *s = shifts + 2 * b * samples * size, *m = mask ? mask + b * size : mask;
        const float *g = grad + b * channels * size;
        float *to_values = grad_values ? grad_values + b * channels * size : grad_values;
        float *to_weights = grad_weights + b * samples * size, *to_shifts = grad_shifts + 2 * b * samples * size;
        if (mask)
            sums(f, w + at, s + at, m, weighted, plain, weight, support, y, size, channels, samples, height, width,
                 radius, zeros_outside, 1);
        else
            sums(f, w + at, s + at, m, weighted, plain, weight, support, y, size, channels, samples, height, width,
                 radius, zeros_outside, 0);
        /* the result is the sum of scale (w - centre) a, and a constant of the value reference would not change it */
        for (int x = 0; x < width; x++) {
            const int there = covered(weight[x], support[x]);
            scale[x] = !there ? 0 : residual ? 1 : 1 / weight[x];
            centre[x] = there && residual ? weight[x] / support[x] : 0;
            for (int channel = 0; channel < channels; channel++) {
                const size_t at = (size_t)channel * width + x;
                plain[at] = !there ? 0 : residual ? plain[at] / support[x] : weighted[at] / weight[x];
            }
        }
#define BACKWARD(masked, scatter)                                                                                   \
    backward_row(f, w, s, m, g, to_values, to_weights, to_shifts, scale, centre, plain, y, channels, samples, height, \
                 width, radius, zeros_outside, masked, scatter)
        if (mask && grad_values)
            BACKWARD(1, 1);
        else if (mask)
            BACKWARD(1, 0);
        else if (grad_values)
            BACKWARD(0, 1);
        else
            BACKWARD(0, 0);
#undef BACKWARD
    }
    free(weighted);
}
