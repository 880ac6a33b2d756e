/* Pixels to phases for ops/phase_conv.py, which holds the reference. Tensors are contiguous float32. */

#include "kernels.h"

/* image (batch, channels, 2 height, 2 width), phases (batch, height, width, channels, 2, 2); rows of the flattened
   (batch, half-resolution row) axis. */
EXPORT void unshuffle(const float *restrict image, float *restrict phases, int row_begin, int row_end, int channels,
                      int height, int width) {
    for (int row = row_begin; row < row_end; row++) {
        const size_t batch = row / height, y = row % height;
        float *out = phases + (size_t)row * width * channels * 4;
        for (int c = 0; c < channels; c++) {
            const float *upper = image + ((batch * channels + c) * 2 * height + 2 * y) * 2 * width;
            const float *lower = upper + 2 * width;
            for (int x = 0; x < width; x++) {
                float *at = out + ((size_t)x * channels + c) * 4;
                at[0] = upper[2 * x];
                at[1] = upper[2 * x + 1];
                at[2] = lower[2 * x];
                at[3] = lower[2 * x + 1];
            }
        }
    }
}
