/* Scans of ops/propagation.py, which holds the reference. Tensors are contiguous float32. */

#include "kernels.h"

/* x, out (batch, channels, height, width), gates (batch, 3, channels, height, width); planes of the flattened
   (batch, channel) axis. A gate without a neighbour counts as 0. */
EXPORT void propagate(const float *restrict x, const float *restrict gates, float *restrict out, int plane_begin,
                      int plane_end, int channels, int height, int width) {
    const size_t size = (size_t)height * width;
    for (int plane = plane_begin; plane < plane_end; plane++) {
        const float *own = x + plane * size;
        const float *above = gates + ((size_t)(plane / channels) * 3 * channels + plane % channels) * size;
        const float *beside = above + channels * size, *below = beside + channels * size;
        float *h = out + plane * size;
        for (int row = 0; row < height; row++) h[(size_t)row * width] = own[(size_t)row * width];
        for (int column = 1; column < width; column++)
            for (int row = 0; row < height; row++) {
                const size_t at = (size_t)row * width + column;
                const float value = own[at];
                float result = value + beside[at] * (h[at - 1] - value);
                if (row > 0) result += above[at] * (h[at - width - 1] - value);
                if (row < height - 1) result += below[at] * (h[at + width - 1] - value);
                h[at] = result;
            }
    }
}

/* Gradients of propagate; grad holds that of out and becomes that of x. */
EXPORT void propagate_backward(const float *restrict x, const float *restrict gates, const float *restrict out,
                               float *restrict grad, float *restrict grad_gates, int plane_begin, int plane_end,
                               int channels, int height, int width) {
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
