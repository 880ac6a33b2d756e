/* Fused CPU kernels of HITNet's tile operators; ops/tile_match.py and ops/tile_warp.py hold the references.
   Plain C, no libraries: every function works on the rows [row_begin, row_end) of a flattened (batch, row) axis,
   so that the caller may split them over threads. Features are float32 with the channels last. */

#include "kernels.h"

#define LANES 16 /* tiles matched at once: one AVX-512 or two AVX2 registers */

static int clampi(int value, int high) { return value < 0 ? 0 : value > high ? high : value; }

/* A row of right tiles sorted by phase (column mod 4) and planar, so that the candidates of 16 tiles are contiguous. */
typedef struct {
    float *phases, *lefts;
    int reach, columns; /* columns of one phase, with slack for the last block */
} Candidates;

static int new_candidates(Candidates *s, int tiles, int channels, int candidates) {
    s->reach = (candidates + 3) / 4 * 4;
    s->columns = (tiles + LANES - 1) / LANES * LANES + s->reach / 4 + LANES;
    s->phases = room(sizeof(float) * 4 * channels * s->columns);
    s->lefts = room(sizeof(float) * channels * LANES);
    return !s->phases || !s->lefts;
}

static void free_candidates(Candidates *s) {
    free(s->phases);
    free(s->lefts);
}

static inline __attribute__((always_inline)) void sort_row(const Candidates *s, const float *right, int width,
                                                           const int channels) {
    for (int phase = 0; phase < 4; phase++)
        for (int i = 0; i < s->columns; i++) {
            const float *source = right + (size_t)clampi(4 * i + phase - s->reach + 1, width - 1) * channels;
            for (int c = 0; c < channels; c++) s->phases[((size_t)phase * channels + c) * s->columns + i] = source[c];
        }
}

/* Up to 16 tiles from `first` on. Disparities d in [0, candidates) compare left tile x with right column
   clamp(4 x + 1 - d); those within `band` of skip, which may be NULL, do not count. */
static inline __attribute__((always_inline)) void match_block(const Candidates *s, const float *left, int first,
                                                              int count, const float *skip, float band, int candidates,
                                                              float *best_cost, float *best_d, const int channels) {
    for (int i = 0; i < LANES; i++) {
        best_cost[i] = INFINITY;
        best_d[i] = 0;
    }
    memset(s->lefts, 0, sizeof(float) * channels * LANES);
    for (int i = 0; i < count; i++)
        for (int c = 0; c < channels; c++) s->lefts[c * LANES + i] = left[(size_t)(first + i) * channels + c];
    for (int d = 0; d < candidates; d++) {
        const int shift = s->reach - d;
        const float *p = s->phases + (size_t)(shift % 4) * channels * s->columns + shift / 4 + first;
        float cost[LANES] = {0};
        for (int c = 0; c < channels; c++)
            for (int i = 0; i < LANES; i++) cost[i] += fabsf(s->lefts[c * LANES + i] - p[(size_t)c * s->columns + i]);
        for (int i = 0; i < LANES; i++) {
            const float masked = skip && fabsf((float)d - skip[i]) <= band ? INFINITY : cost[i];
            const int better = masked < best_cost[i];
            best_cost[i] = better ? masked : best_cost[i];
            best_d[i] = better ? (float)d : best_d[i];
        }
    }
}

/* tensors: left (batch, height, tiles, c), right (batch, height, width, c), exclude (batch, 1, height, tiles) or NULL, the
   band around it, and best (batch, 1, height, tiles); numbers: height, tiles, width, c and candidates. Rows of the
   flattened (batch, row) axis. */
EXPORT void tile_match(void *const *tensors, const int *numbers, int row_begin, int row_end) {
    const float *left = tensors[0], *right = tensors[1], *exclude = tensors[2], band = *(const float *)tensors[3];
    float *best = tensors[4];
    const int tiles = numbers[1], width = numbers[2], channels = numbers[3], candidates = numbers[4];
    Candidates s;
    if (new_candidates(&s, tiles, channels, candidates)) row_begin = row_end;
    for (int row = row_begin; row < row_end; row++) {
        const float *l = left + (size_t)row * tiles * channels;
        sort_row(&s, right + (size_t)row * width * channels, width, channels);
        for (int first = 0; first < tiles; first += LANES) {
            const int count = tiles - first < LANES ? tiles - first : LANES;
            float best_cost[LANES], best_d[LANES], skip[LANES];
            for (int i = 0; i < LANES; i++) skip[i] = exclude && i < count ? exclude[(size_t)row * tiles + first + i] : -1e9f;
            match_block(&s, l, first, count, skip, band, candidates, best_cost, best_d, channels);
            memcpy(best + (size_t)row * tiles + first, best_d, sizeof(float) * count);
        }
    }
    free_candidates(&s);
}

/* tensors: left (batch, height, tiles, c), right (batch, height, width, c), hypotheses (batch, height, tiles, 16), whose
   plane becomes the best d and flat, and of ops/program.py a map of one channel for its cost. numbers: height, tiles,
   width, c, candidates, and numbers of the map from one image and row to the next. Rows of the flattened (batch, row)
   axis. */
EXPORT void tile_match_hypotheses(void *const *tensors, const int *numbers, int row_begin, int row_end) {
    const int height = numbers[0], tiles = numbers[1], width = numbers[2], channels = numbers[3], candidates = numbers[4];
    Candidates s;
    if (new_candidates(&s, tiles, channels, candidates)) row_begin = row_end;
    for (int row = row_begin; row < row_end; row++) {
        const float *left = (const float *)tensors[0] + (size_t)row * tiles * channels;
        const float *right = (const float *)tensors[1] + (size_t)row * width * channels;
        uint16_t *costs = (uint16_t *)tensors[3] + (size_t)(row / height) * numbers[5] + (size_t)(row % height) * numbers[6];
        if (channels == 16)
            sort_row(&s, right, width, 16);
        else
            sort_row(&s, right, width, channels);
        for (int first = 0; first < tiles; first += LANES) {
            const int count = tiles - first < LANES ? tiles - first : LANES;
            float best_cost[LANES], best_d[LANES];
            float *out = (float *)tensors[2] + ((size_t)row * tiles + first) * HYPOTHESIS;
            if (channels == 16)
                match_block(&s, left, first, count, NULL, 0, candidates, best_cost, best_d, 16);
            else
                match_block(&s, left, first, count, NULL, 0, candidates, best_cost, best_d, channels);
            for (int i = 0; i < count; i++) {
                out[HYPOTHESIS * i] = best_d[i];
                out[HYPOTHESIS * i + 1] = out[HYPOTHESIS * i + 2] = 0;
                costs[first + i] = narrow(best_cost[i]);
            }
        }
    }
    free_candidates(&s);
}

/* The four columns that the costs at d' - 1, d', d' + 1 share, and the weight of the right neighbour. */
static float columns_at(float position, int last, int at[4]) {
    /* beyond the borders every sample is the outermost pixel, so the position may be clipped there */
    float clipped = position > -4.0f ? position : -4.0f; /* NaN too, which is no whole number */
    clipped = clipped < (float)last + 4.0f ? clipped : (float)last + 4.0f;
    const float low = floorf(clipped);
    for (int k = 0; k < 4; k++) at[k] = clampi((int)low - 1 + k, last);
    return position != position ? position : clipped - low;
}

/* tensors: left, right (batch, height, width, c), disparity (batch, 1, height, width), costs (batch, height / 4, width / 4,
   4, 4, 4): (row, column, kind); numbers: height, width and c. Rows of the flattened (batch, row) axis. */
EXPORT void tile_warp_cost(void *const *tensors, const int *numbers, int row_begin, int row_end) {
    const float *restrict left = tensors[0], *restrict right = tensors[1], *restrict disparity = tensors[2];
    float *restrict costs = tensors[3];
    const int width = numbers[1], channels = numbers[2];
    for (int row = row_begin; row < row_end; row++) {
        const float *l = left + (size_t)row * width * channels;
        const float *r = right + (size_t)row * width * channels;
        for (int x = 0; x < width; x++) {
            int at[4];
            const float w = columns_at((float)x - disparity[(size_t)row * width + x], width - 1, at);
            const float *e = l + (size_t)x * channels;
            const float *s0 = r + (size_t)at[0] * channels, *s1 = r + (size_t)at[1] * channels;
            const float *s2 = r + (size_t)at[2] * channels, *s3 = r + (size_t)at[3] * channels;
            float norm = 0, near = 0, here = 0, far = 0;
            for (int c = 0; c < channels; c++) {
                norm += fabsf(e[c]);
                near += fabsf(e[c] - (s2[c] + w * (s3[c] - s2[c]))); /* d' - 1 */
                here += fabsf(e[c] - (s1[c] + w * (s2[c] - s1[c])));
                far += fabsf(e[c] - (s0[c] + w * (s1[c] - s0[c])));
            }
            float *out = costs + (((size_t)(row / 4) * (width / 4) + x / 4) * 16 + (row % 4) * 4 + x % 4) * 4;
            out[0] = norm;
            out[1] = near;
            out[2] = here;
            out[3] = far;
        }
    }
}

static float sign(float value) { return (float)((value > 0) - (value < 0)); }

/* Gradients of tile_warp_cost. tensors: left, right, disparity, that of the costs, those of left and right, which are
   added to what is there, so that hypotheses accumulate, and that of the disparity; numbers and rows as above. */
EXPORT void tile_warp_cost_backward(void *const *tensors, const int *numbers, int row_begin, int row_end) {
    const float *restrict left = tensors[0], *restrict right = tensors[1], *restrict disparity = tensors[2];
    const float *restrict grad_costs = tensors[3];
    float *restrict grad_left = tensors[4], *restrict grad_right = tensors[5], *restrict grad_disparity = tensors[6];
    const int width = numbers[1], channels = numbers[2];
    float *buffer = room(sizeof(float) * 4 * channels);
    if (!buffer) return;
    float *g0 = buffer, *g1 = g0 + channels, *g2 = g1 + channels, *g3 = g2 + channels;
    for (int row = row_begin; row < row_end; row++) {
        const float *l = left + (size_t)row * width * channels;
        const float *r = right + (size_t)row * width * channels;
        float *gl = grad_left + (size_t)row * width * channels;
        float *gr = grad_right + (size_t)row * width * channels;
        for (int x = 0; x < width; x++) {
            int at[4];
            const float w = columns_at((float)x - disparity[(size_t)row * width + x], width - 1, at);
            const float *e = l + (size_t)x * channels;
            const float *s0 = r + (size_t)at[0] * channels, *s1 = r + (size_t)at[1] * channels;
            const float *s2 = r + (size_t)at[2] * channels, *s3 = r + (size_t)at[3] * channels;
            const float *g = grad_costs + (((size_t)(row / 4) * (width / 4) + x / 4) * 16 + (row % 4) * 4 + x % 4) * 4;
            float *ge = gl + (size_t)x * channels;
            float slope = 0;
            for (int c = 0; c < channels; c++) {
                const float near = g[1] * sign(e[c] - (s2[c] + w * (s3[c] - s2[c])));
                const float here = g[2] * sign(e[c] - (s1[c] + w * (s2[c] - s1[c])));
                const float far = g[3] * sign(e[c] - (s0[c] + w * (s1[c] - s0[c])));
                ge[c] += g[0] * sign(e[c]) + near + here + far;
                g0[c] = -far * (1 - w);
                g1[c] = -far * w - here * (1 - w);
                g2[c] = -here * w - near * (1 - w);
                g3[c] = -near * w;
                slope += near * (s3[c] - s2[c]) + here * (s2[c] - s1[c]) + far * (s1[c] - s0[c]);
            }
            grad_disparity[(size_t)row * width + x] = slope;
            float *t0 = gr + (size_t)at[0] * channels, *t1 = gr + (size_t)at[1] * channels;
            float *t2 = gr + (size_t)at[2] * channels, *t3 = gr + (size_t)at[3] * channels;
            for (int c = 0; c < channels; c++) t0[c] += g0[c];
            for (int c = 0; c < channels; c++) t1[c] += g1[c];
            for (int c = 0; c < channels; c++) t2[c] += g2[c];
            for (int c = 0; c < channels; c++) t3[c] += g3[c];
        }
    }
    free(buffer);
}
