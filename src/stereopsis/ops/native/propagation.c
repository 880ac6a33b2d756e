/* Scans of ops/propagation.py, which holds the reference. Tensors are contiguous float32. */

#include "kernels.h"

#define ROWS 16 /* scanned at once */
#define COLUMNS 64

/* Normalised gates times what they weigh need the rows side by side: a few columns are turned at a time. */
static void turned(const float *restrict from, float *restrict to, int height, int width, int column, int count) {
    for (int row = 0; row < height; row += ROWS)
        for (int x = 0; x < count; x++)
            for (int i = 0; i < ROWS && row + i < height; i++)
                to[(size_t)x * height + row + i] = from[(size_t)(row + i) * width + column + x];
}

/* tensors: x (batch, channels, height, width), gates (batch, 3, channels, height, width), out of x's shape; planes of the
   flattened (batch, channel) axis. A gate without a neighbour counts as 0. normalize: gates by the sum of their
   magnitudes. */
EXPORT void propagate(void *const *tensors, const int *numbers, int plane_begin, int plane_end) {
    const float *x = tensors[0], *gates = tensors[1];
    float *out = tensors[2];
    const int channels = numbers[0], height = numbers[1], width = numbers[2], normalize = numbers[3];
    const size_t size = (size_t)height * width, strip = (size_t)height * COLUMNS;
    float *own = room(sizeof(float) * (4 * strip + 2 * (height + 2))), *above = own + strip, *beside = above + strip;
    float *below = beside + strip, *columns = below + strip;
    if (!own) return;
    for (int plane = plane_begin; plane < plane_end; plane++) {
        const float *first = gates + ((size_t)(plane / channels) * 3 * channels + plane % channels) * size;
        float *h = out + plane * size;
        /* the last column, with a row above and one below that nothing comes from */
        float *last = columns, *next = last + height + 2;
        memset(last, 0, sizeof(float) * 2 * (height + 2));
        for (int column = 0; column < width; column += COLUMNS) {
            const int count = width - column < COLUMNS ? width - column : COLUMNS;
            turned(x + plane * size, own, height, width, column, count);
            turned(first, above, height, width, column, count);
            turned(first + channels * size, beside, height, width, column, count);
            turned(first + 2 * channels * size, below, height, width, column, count);
            for (int i = 0; i < count; i++) {
                const float *restrict value = own + (size_t)i * height, *restrict a = above + (size_t)i * height;
                const float *restrict s = beside + (size_t)i * height, *restrict b = below + (size_t)i * height;
                const float edge = column + i > 0 ? 1 : 0;
                for (int row = 0; row < height; row++) {
                    const float sum = fabsf(a[row]) + fabsf(s[row]) + fabsf(b[row]) + 1e-8f;
                    const float by = edge * (normalize ? 1 / sum : 1), v = value[row];
                    const float up = row > 0 ? a[row] : 0, down = row < height - 1 ? b[row] : 0;
                    next[row + 1] =
                        v + by * (up * (last[row] - v) + s[row] * (last[row + 1] - v) + down * (last[row + 2] - v));
                }
                for (int row = 0; row < height; row++) h[(size_t)row * width + column + i] = next[row + 1];
                float *swap = last;
                last = next;
                next = swap;
            }
        }
    }
    free(own);
}

/* Gradients of propagate. tensors: x, gates, out, that of out, which becomes that of x, and that of the gates; numbers
   (channels, height, width) and planes as of propagate. */
EXPORT void propagate_backward(void *const *tensors, const int *numbers, int plane_begin, int plane_end) {
    const float *restrict x = tensors[0], *restrict gates = tensors[1], *restrict out = tensors[2];
    float *restrict grad = tensors[3], *restrict grad_gates = tensors[4];
    const int channels = numbers[0], height = numbers[1], width = numbers[2];
    const size_t size = (size_t)height * width;
    for (int plane = plane_begin; plane < plane_end; plane++) {
        const size_t first = ((size_t)(plane / channels) * 3 * channels + plane % channels) * size;
        const float *own = x + plane * size, *h = out + plane * size;
        const float *above = gates + first, *beside = above + channels * size, *below = beside + channels * size;
        float *g = grad + plane * size;
        float *grad_above = grad_gates + first, *grad_beside = grad_above + channels * size;
        float *grad_below = grad_beside + channels * size;
        for (int column = width - 1; column > 0; column--) {
            /* first all rows hand on to the column before, then they keep their own share */
            for (int row = 0; row < height; row++) {
                const size_t at = (size_t)row * width + column;
                const float whole = g[at], value = own[at];
                float kept = 1 - beside[at];
                g[at - 1] += whole * beside[at];
                grad_beside[at] = whole * (h[at - 1] - value);
                grad_above[at] = grad_below[at] = 0;
                if (row > 0) {
                    g[at - width - 1] += whole * above[at];
                    grad_above[at] = whole * (h[at - width - 1] - value);
                    kept -= above[at];
                }
                if (row < height - 1) {
                    g[at + width - 1] += whole * below[at];
                    grad_below[at] = whole * (h[at + width - 1] - value);
                    kept -= below[at];
                }
                g[at] = whole * kept;
            }
        }
        for (int row = 0; row < height; row++) {
            const size_t at = (size_t)row * width;
            grad_above[at] = grad_beside[at] = grad_below[at] = 0;
        }
    }
}
