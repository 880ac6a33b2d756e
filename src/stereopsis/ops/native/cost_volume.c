/* Cost volumes of ops/cost_volume.py, which holds the references. Tensors are contiguous float32. */

#include "kernels.h"

/* tensors: left, right (batch, channels, height, width), costs (batch, candidates, height, width); rows of the flattened
   (batch, row) axis. Left of the image the right features are 0. */
EXPORT void absolute_volume(void *const *tensors, const int *numbers, int row_begin, int row_end) {
    const float *left = tensors[0], *right = tensors[1];
    float *costs = tensors[2];
    const int channels = numbers[0], height = numbers[1], width = numbers[2], candidates = numbers[3];
    const size_t size = (size_t)height * width;
    for (int row = row_begin; row < row_end; row++) {
        const size_t batch = row / height, offset = (size_t)(row % height) * width;
        const float *l = left + batch * channels * size + offset, *r = right + batch * channels * size + offset;
        for (int d = 0; d < candidates; d++) {
            const int first = d < width ? d : width;
            float *restrict out = costs + (batch * candidates + d) * size + offset;
            memset(out, 0, sizeof(float) * width);
            for (int c = 0; c < channels; c++) {
                const float *restrict own = l + c * size, *restrict other = r + c * size;
                for (int x = 0; x < first; x++) out[x] += fabsf(own[x]);
                for (int x = first; x < width; x++) out[x] += fabsf(own[x] - other[x - d]);
            }
        }
    }
}

/* Gradients of absolute_volume. tensors: left, right, that of the costs, and those of left and right, which are added to
   what is there; numbers and rows as of absolute_volume. */
EXPORT void absolute_volume_backward(void *const *tensors, const int *numbers, int row_begin, int row_end) {
    const float *restrict left = tensors[0], *restrict right = tensors[1], *restrict grad_costs = tensors[2];
    float *restrict grad_left = tensors[3], *restrict grad_right = tensors[4];
    const int channels = numbers[0], height = numbers[1], width = numbers[2], candidates = numbers[3];
    const size_t size = (size_t)height * width;
    for (int row = row_begin; row < row_end; row++) {
        const size_t batch = row / height, offset = (size_t)(row % height) * width;
        for (int c = 0; c < channels; c++) {
            const size_t at = (batch * channels + c) * size + offset;
            for (int d = 0; d < candidates; d++) {
                const float *grad = grad_costs + (batch * candidates + d) * size + offset;
                for (int x = 0; x < width; x++) {
                    const float difference = left[at + x] - (x >= d ? right[at + x - d] : 0);
                    const float g = grad[x] * (float)((difference > 0) - (difference < 0));
                    grad_left[at + x] += g;
                    if (x >= d) grad_right[at + x - d] -= g;
                }
            }
        }
    }
}

/* The column left of x - d, kept within reach of the image, and the weight of its right neighbour. */
static int column_of(float x, float d, int width, int radius, float *weight) {
    float position = x - d;
    position = isnan(position) ? 0 : fmaxf(fminf(position, 1e9f), -1e9f);
    const float low = floorf(position);
    *weight = position - low;
    return (int)fmaxf(fminf(low, (float)(width + radius)), (float)(-radius - 2));
}

static float column(const float *row, int at, int width) { return at >= 0 && at < width ? row[at] : 0; }

/* tensors: left, right (batch, channels, height, width), disparity (batch, height, width), costs (batch, 2 radius + 1,
   height, width); rows of the flattened (batch, row) axis. The first candidate is the residual -radius, furthest right. */
EXPORT void residual_volume(void *const *tensors, const int *numbers, int row_begin, int row_end) {
    const float *left = tensors[0], *right = tensors[1], *disparity = tensors[2];
    float *costs = tensors[3];
    const int channels = numbers[0], height = numbers[1], width = numbers[2], radius = numbers[3];
    const size_t size = (size_t)height * width;
    const int candidates = 2 * radius + 1;
    for (int row = row_begin; row < row_end; row++) {
        const size_t batch = row / height, offset = (size_t)(row % height) * width;
        const float *l = left + batch * channels * size + offset, *r = right + batch * channels * size + offset;
        const float *d = disparity + batch * size + offset;
        float *out = costs + batch * candidates * size + offset;
        for (int x = 0; x < width; x++) {
            float weight;
            const int low = column_of((float)x, d[x], width, radius, &weight);
            for (int k = 0; k < candidates; k++) out[k * size + x] = 0;
            for (int c = 0; c < channels; c++) {
                const float *from = r + c * size;
                const float own = l[c * size + x];
                float far = column(from, low + radius + 1, width);
                for (int k = 0; k < candidates; k++) {
                    const float near = column(from, low + radius - k, width);
                    out[k * size + x] += fabsf(own - (near + weight * (far - near)));
                    far = near;
                }
            }
        }
    }
}

/* Gradients of residual_volume. tensors: left, right, disparity, that of the costs, those of left and right, which are
   added to what is there, and that of the disparity; numbers and rows as of residual_volume. */
EXPORT void residual_volume_backward(void *const *tensors, const int *numbers, int row_begin, int row_end) {
    const float *restrict left = tensors[0], *restrict right = tensors[1], *restrict disparity = tensors[2];
    const float *restrict grad_costs = tensors[3];
    float *restrict grad_left = tensors[4], *restrict grad_right = tensors[5], *restrict grad_disparity = tensors[6];
    const int channels = numbers[0], height = numbers[1], width = numbers[2], radius = numbers[3];
    const size_t size = (size_t)height * width;
    const int candidates = 2 * radius + 1;
    for (int row = row_begin; row < row_end; row++) {
        const size_t batch = row / height, offset = (size_t)(row % height) * width;
        const size_t features = batch * channels * size + offset;
        const float *d = disparity + batch * size + offset;
        const float *grad = grad_costs + batch * candidates * size + offset;
        for (int x = 0; x < width; x++) {
            float weight, slope = 0;
            const int low = column_of((float)x, d[x], width, radius, &weight);
            for (int c = 0; c < channels; c++) {
                const float *from = right + features + c * size;
                float *to = grad_right + features + c * size;
                const float own = left[features + c * size + x];
                float sum = 0, far = column(from, low + radius + 1, width);
                for (int k = 0; k < candidates; k++) {
                    const int at = low + radius - k;
                    const float near = column(from, at, width);
                    const float difference = own - (near + weight * (far - near));
                    const float g = grad[k * size + x] * (float)((difference > 0) - (difference < 0));
                    sum += g;
                    slope += g * (far - near); /* position falls as disparity grows */
                    if (at >= 0 && at < width) to[at] -= g * (1 - weight);
                    if (at + 1 >= 0 && at + 1 < width) to[at + 1] -= g * weight;
                    far = near;
                }
                grad_left[features + c * size + x] += sum;
            }
            grad_disparity[batch * size + offset + x] = slope;
        }
    }
}
