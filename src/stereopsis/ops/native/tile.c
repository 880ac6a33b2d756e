/* Fused CPU kernels of HITNet's tile operators; ops/tile_match.py and ops/tile_warp.py hold the references.
   Plain C, no libraries: every function works on the rows [row_begin, row_end) of a flattened (batch, row) axis,
   so that the caller may split them over threads. Features are float32 with the channels last. */

#include "kernels.h"

#define LANES 16 /* tiles matched at once: one AVX-512 or two AVX2 registers */

static int clampi(int value, int high) { return value < 0 ? 0 : value > high ? high : value; }

/* left (rows, tiles, c), right (rows, width, c); exclude (rows, tiles) or NULL; best (rows, tiles).
   Disparities d in [0, candidates) compare left tile x with right column clamp(4 x + 1 - d).
   The right row is sorted by phase (column mod 4) and planar, so that the candidates of 16 tiles are contiguous. */
EXPORT int tile_match(const float *left, const float *right, const float *exclude, float band, float *best,
                      int row_begin, int row_end, int tiles, int width, int channels, int candidates) {
    const int reach = (candidates + 3) / 4 * 4;
    const int blocks = (tiles + LANES - 1) / LANES;
    const int columns = blocks * LANES + reach / 4 + LANES; /* of one phase, with slack for the last block */
    float *phases = malloc(sizeof(float) * 4 * channels * columns);
    float *lefts = malloc(sizeof(float) * channels * LANES);
    if (!phases || !lefts) {
        free(phases);
        free(lefts);
        return 1;
    }
    for (int row = row_begin; row < row_end; row++) {
        const float *l = left + (size_t)row * tiles * channels;
        const float *r = right + (size_t)row * width * channels;
        for (int phase = 0; phase < 4; phase++)
            for (int i = 0; i < columns; i++) {
                const float *source = r + (size_t)clampi(4 * i + phase - reach + 1, width - 1) * channels;
                for (int c = 0; c < channels; c++) phases[((size_t)phase * channels + c) * columns + i] = source[c];
            }
        for (int block = 0; block < blocks; block++) {
            const int first = block * LANES;
            const int count = tiles - first < LANES ? tiles - first : LANES;
            float best_cost[LANES], best_d[LANES], skip[LANES];
            for (int i = 0; i < LANES; i++) {
                best_cost[i] = INFINITY;
                best_d[i] = 0;
                skip[i] = exclude && i < count ? exclude[(size_t)row * tiles + first + i] : -1e9f;
            }
            memset(lefts, 0, sizeof(float) * channels * LANES);
            for (int i = 0; i < count; i++)
                for (int c = 0; c < channels; c++) lefts[c * LANES + i] = l[(size_t)(first + i) * channels + c];
            for (int d = 0; d < candidates; d++) {
                const int shift = reach - d;
                const float *p = phases + (size_t)(shift % 4) * channels * columns + shift / 4 + first;
                float cost[LANES] = {0};
                for (int c = 0; c < channels; c++)
                    for (int i = 0; i < LANES; i++) cost[i] += fabsf(lefts[c * LANES + i] - p[(size_t)c * columns + i]);
                for (int i = 0; i < LANES; i++) {
                    const float masked = fabsf((float)d - skip[i]) <= band ? INFINITY : cost[i];
                    const int better = masked < best_cost[i];
                    best_cost[i] = better ? masked : best_cost[i];
                    best_d[i] = better ? (float)d : best_d[i];
                }
            }
            memcpy(best + (size_t)row * tiles + first, best_d, sizeof(float) * count);
        }
    }
    free(phases);
    free(lefts);
    return 0;
}

/* The four columns that the costs at d' - 1, d', d' + 1 share, and the weight of the right neighbour. */
static float columns_at(float position, int last, int at[4]) {
    /* beyond the borders every sample is the outermost pixel, so the position may be clipped there */
    position = position < -4.0f ? -4.0f : position > (float)last + 4.0f ? (float)last + 4.0f : position;
    const float low = floorf(position);
    for (int k = 0; k < 4; k++) at[k] = clampi((int)low - 1 + k, last);
    return position - low;
}

/* left, right (rows, width, c), disparity (rows, width); costs (rows / 4, width / 4, 4, 4, 4): (row, column, kind). */
EXPORT void tile_warp_cost(const float *restrict left, const float *restrict right, const float *restrict disparity,
                           float *restrict costs, int row_begin, int row_end, int width, int channels) {
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

/* Gradients of tile_warp_cost; those of the features are added to what is there, so that hypotheses accumulate. */
EXPORT void tile_warp_cost_backward(const float *restrict left, const float *restrict right,
                                    const float *restrict disparity, const float *restrict grad_costs,
                                    float *restrict grad_left, float *restrict grad_right,
                                    float *restrict grad_disparity, int row_begin, int row_end, int width, int channels) {
    float *buffer = malloc(sizeof(float) * 4 * channels);
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
