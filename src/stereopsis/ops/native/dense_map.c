/* From costs to maps, for ops/soft_argmin.py and ops/enlarge.py, which hold the references. Tensors are contiguous
   float32. */

#include "kernels.h"

/* tensors: costs, distribution (batch, candidates, height, width), mean (batch, 1, height, width); rows of the flattened
   (batch, row) axis. */
EXPORT void soft_argmin(void *const *tensors, const int *numbers, int row_begin, int row_end) {
    const float *costs = tensors[0];
    float *distribution = tensors[1], *mean = tensors[2];
    const int candidates = numbers[0], height = numbers[1], width = numbers[2];
    const size_t size = (size_t)height * width;
    float *restrict lowest = room(sizeof(float) * 3 * width), *restrict sum = lowest + width, *restrict first = sum + width;
    if (!lowest) return;
    for (int row = row_begin; row < row_end; row++) {
        const size_t batch = row / height, offset = (size_t)(row % height) * width;
        const float *restrict c = costs + batch * candidates * size + offset;
        float *restrict p = distribution + batch * candidates * size + offset, *restrict m = mean + batch * size + offset;
        for (int x = 0; x < width; x++) lowest[x] = c[x], sum[x] = first[x] = 0;
        for (int k = 1; k < candidates; k++)
            for (int x = 0; x < width; x++) lowest[x] = c[k * size + x] < lowest[x] ? c[k * size + x] : lowest[x];
        for (int k = 0; k < candidates; k++)
            for (int x = 0; x < width; x++) {
                const float value = exponential(lowest[x] - c[k * size + x]);
                p[k * size + x] = value;
                sum[x] += value;
                first[x] += k * value;
            }
        for (int x = 0; x < width; x++) {
            sum[x] = 1 / sum[x];
            m[x] = first[x] * sum[x];
        }
        for (int k = 0; k < candidates; k++)
            for (int x = 0; x < width; x++) p[k * size + x] *= sum[x];
    }
    free(lowest);
}

/* tensors: distribution (batch, candidates, height, width), near (batch, 1, height, width): the probability within one
   candidate of the mean index, fading to nothing at two. Rows of the flattened (batch, row) axis. */
EXPORT void mass_near_mean(void *const *tensors, const int *numbers, int row_begin, int row_end) {
    const float *distribution = tensors[0];
    float *restrict near = tensors[1];
    const int candidates = numbers[0], height = numbers[1], width = numbers[2];
    const size_t size = (size_t)height * width;
    for (int row = row_begin; row < row_end; row++) {
        const float *restrict p = distribution + (size_t)(row / height) * candidates * size + row % height * (size_t)width;
        float *restrict to = near + (size_t)row * width;
        for (int x = 0; x < width; x++) {
            float mean = 0, sum = 0;
            for (int k = 0; k < candidates; k++) mean += k * p[k * size + x];
            for (int k = 0; k < candidates; k++) {
                const float share = 2 - fabsf(k - mean);
                sum += p[k * size + x] * (share > 1 ? 1 : share < 0 ? 0 : share);
            }
            to[x] = sum;
        }
    }
}

/* Where a row or a column of the result lies among those of the source. */
typedef struct {
    int low, high;
    float weight; /* of the higher one */
} Between;

static Between between(int at, int size, int source, int align_corners) {
    float position = align_corners ? (size > 1 ? at * ((float)(source - 1) / (size - 1)) : 0)
                                   : (at + 0.5f) * ((float)source / size) - 0.5f;
    position = position < 0 ? 0 : position;
    const int low = (int)position < source - 1 ? (int)position : source - 1;
    return (Between){low, low < source - 1 ? low + 1 : low, position - low};
}

/* Columns of the result, from the two rows of the source around it; mixed has the source's width. */
static void enlarged_row(const float *restrict source, Between y, const Between *restrict columns,
                         float *restrict mixed, float *restrict out, int source_width, int width) {
    const float *upper = source + (size_t)y.low * source_width, *lower = source + (size_t)y.high * source_width;
    for (int x = 0; x < source_width; x++) mixed[x] = upper[x] + y.weight * (lower[x] - upper[x]);
    for (int x = 0; x < width; x++)
        out[x] = mixed[columns[x].low] + columns[x].weight * (mixed[columns[x].high] - mixed[columns[x].low]);
}

/* tensors: x (planes, height, width), base, may be NULL, and out (planes, rows, columns); rows of the flattened (plane,
   row of the output) axis. */
EXPORT void enlarge(void *const *tensors, const int *numbers, int row_begin, int row_end) {
    const float *x = tensors[0], *base = tensors[1];
    float *out = tensors[2];
    const int height = numbers[0], width = numbers[1], rows = numbers[2], columns = numbers[3];
    const int align_corners = numbers[4];
    Between *across = room(sizeof(Between) * columns);
    float *mixed = room(sizeof(float) * width);
    if (!across || !mixed) row_begin = row_end;
    for (int i = 0; across && i < columns; i++) across[i] = between(i, columns, width, align_corners);
    for (int row = row_begin; row < row_end; row++) {
        float *to = out + (size_t)row * columns;
        enlarged_row(x + (size_t)(row / rows) * height * width, between(row % rows, rows, height, align_corners),
                     across, mixed, to, width, columns);
        if (base)
            for (int i = 0; i < columns; i++) to[i] += base[(size_t)row * columns + i];
    }
    free(across);
    free(mixed);
}

/* tensors: disparity (batch, rows, columns), confidence (batch, height, width), and of the rows and columns from (top,
   left) on, out, valid (bytes) and sure (batch, out_height, out_width). Rows of the flattened (batch, row of the output)
   axis. */
EXPORT void finished_map(void *const *tensors, const int *numbers, int row_begin, int row_end) {
    const float *disparity = tensors[0], *confidence = tensors[1];
    float *restrict out = tensors[2], *restrict sure = tensors[4];
    unsigned char *restrict valid = tensors[3];
    const int height = numbers[0], width = numbers[1], rows = numbers[2], columns = numbers[3];
    const int top = numbers[4], left = numbers[5], out_height = numbers[6], out_width = numbers[7];
    Between *across = room(sizeof(Between) * out_width);
    float *mixed = room(sizeof(float) * width);
    if (!across || !mixed) row_begin = row_end;
    for (int i = 0; across && i < out_width; i++) across[i] = between(left + i, columns, width, 0);
    for (int row = row_begin; row < row_end; row++) {
        const size_t batch = row / out_height, y = top + row % out_height, at = (size_t)row * out_width;
        const float *d = disparity + (batch * rows + y) * columns + left;
        enlarged_row(confidence + batch * height * width, between((int)y, rows, height, 0), across, mixed, sure + at,
                     width, out_width);
        for (int i = 0; i < out_width; i++) {
            const int known = fabsf(d[i]) < INFINITY;
            valid[at + i] = (unsigned char)known;
            out[at + i] = known && d[i] > 0 ? d[i] : 0;
            sure[at + i] = known ? sure[at + i] : 0;
        }
    }
    free(across);
    free(mixed);
}
