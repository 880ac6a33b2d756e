/* Pixels to phases for ops/phase_conv.py, which holds the reference. Tensors are contiguous float32. */

#include "kernels.h"

/* One row of an image, scaled, shifted and padded to a width; outside of it the outermost pixel or 0. */
static void padded_row(const float *restrict row, float *restrict out, float scale, float shift, int inside, int width,
                       int left, int size, int repeat) {
    const float before = inside && repeat ? row[0] * scale + shift : 0;
    const float after = inside && repeat ? row[width - 1] * scale + shift : 0;
    for (int x = 0; x < left; x++) out[x] = before;
    for (int x = 0; x < width; x++) out[left + x] = inside ? row[x] * scale + shift : 0;
    for (int x = left + width; x < size; x++) out[x] = after;
}

/* images: pointers to tensors (batch, channels, height, width); phases (images, batch, rows, columns, 3, 2, 2), each image
   at (top, left) of a canvas of 2 rows x 2 columns; rows of the flattened (image, batch, half-resolution row) axis. One
   channel serves as three. */
EXPORT int normalized_phases(const float *const *images, const float *restrict scale, const float *restrict shift,
                             float *restrict phases, int row_begin, int row_end, int batch, int channels, int height,
                             int width, int rows, int columns, int top, int left, int repeat) {
    float *upper = malloc(sizeof(float) * 4 * columns), *lower = upper + 2 * columns;
    if (!upper) return 1;
    for (int row = row_begin; row < row_end; row++) {
        const size_t sample = row / rows;
        const float *image = images[sample / batch] + (sample % batch) * channels * (size_t)height * width;
        float *out = phases + (size_t)row * columns * 12;
        for (int c = 0; c < 3; c++) {
            const float *plane = image + (c % channels) * (size_t)height * width;
            for (int k = 0; k < 2; k++) {
                const int y = 2 * (row % rows) + k - top;
                const int inside = repeat || (y >= 0 && y < height);
                const int source = y < 0 ? 0 : y >= height ? height - 1 : y;
                padded_row(plane + (size_t)source * width, k ? lower : upper, scale[c], shift[c], inside, width, left,
                           2 * columns, repeat);
            }
            for (int x = 0; x < columns; x++) {
                float *at = out + (size_t)x * 12 + c * 4;
                at[0] = upper[2 * x];
                at[1] = upper[2 * x + 1];
                at[2] = lower[2 * x];
                at[3] = lower[2 * x + 1];
            }
        }
    }
    free(upper);
    return 0;
}
