/* Convolutions of ops/bf16_conv.py, which holds the reference: bfloat16 maps with the channels last, float32 sums.

   The channels of neighbouring columns lie side by side, so a row of the kernel is one run of numbers under it. Runs are
   cut into pieces of 32, the last one filled up with weights of zero; a piece of 16 output pixels is then a tile of AMX
   as it lies in memory, and nothing is ever rearranged. Maps have margins of zeros instead of cases at their borders. */

#include "kernels.h"

/* Where the numbers of one output pixel are: bytes to the next image, row and pixel of the output. */
typedef struct {
    char *base;
    int64_t image, row, pixel;
} Plane;

typedef struct {
    Plane source[2], add, out;
    const uint16_t *weights; /* (pieces, blocks, 16, 16, 2): pairs of inputs, outputs, input */
    const float *bias;       /* (blocks, 16) */
    const int64_t *pieces;   /* bytes from an output's place in the source */
    const int64_t *pairs;    /* inputs of a piece that are no filling, by two */
    int64_t split;           /* pieces of the first source */
    int64_t count, height, width, outputs;
    int64_t add_exact, out_exact; /* float32 instead of bfloat16; add.base may be NULL */
    float slope;                  /* of the leaky ReLU; 1 for none */
} Convolution;

#if defined(__AVX512F__) && defined(__x86_64__)
#include <cpuid.h>
#include <immintrin.h>
#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

#define PIXELS 16  /* of a tile */
#define PIECES 128 /* at most */
#define DOTS __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512bf16")))
#define TILES __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,amx-tile,amx-bf16")))
#define INLINE static inline __attribute__((always_inline))

/* 2 where the CPU and the system let us use AMX, 1 for dot products of bfloat16 in AVX-512, 0 for neither. */
EXPORT int bf16_convolutions(void) {
    unsigned a, b, c, d, dots = 0, tiles = 0;
    if (__get_cpuid_count(7, 0, &a, &b, &c, &d)) tiles = (d >> 22 & 1) && (d >> 24 & 1);
    if (__get_cpuid_count(7, 1, &a, &b, &c, &d)) dots = a >> 5 & 1;
    if (!dots) return 0;
    (void)tiles;
#if defined(__linux__)
    if (tiles && !syscall(SYS_arch_prctl, 0x1023 /* ARCH_REQ_XCOMP_PERM */, 18 /* XTILEDATA */)) return 2;
#endif
    return 1;
}

/* Sums of 16 outputs of one pixel on their way to memory. */
DOTS INLINE void finish(const Convolution *c, __m512 sum, const char *add, char *out, const int add_exact,
                        const int out_exact, const int outputs) {
    const __mmask16 mask = (__mmask16)((1u << outputs) - 1);
    if (add) {
        __m512 other;
        if (add_exact)
            other = _mm512_maskz_loadu_ps(mask, add);
        else
            other = _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(mask, add)), 16));
        sum = _mm512_add_ps(sum, other);
    }
    sum = _mm512_max_ps(sum, _mm512_mul_ps(sum, _mm512_set1_ps(c->slope)));
    if (out_exact)
        _mm512_mask_storeu_ps(out, mask, sum);
    else
        _mm256_mask_storeu_epi16(out, mask, (__m256i)_mm512_cvtneps_pbh(sum));
}

typedef struct {
    const char *at[PIECES]; /* of column 0 */
    int64_t step[PIECES];
    char *add, *out;
} Row;

INLINE void begin_row(const Convolution *c, int row, Row *r) {
    const int64_t image = row / c->height, y = row % c->height;
    for (int p = 0; p < c->count; p++) {
        const Plane *s = &c->source[p >= c->split];
        r->at[p] = s->base + image * s->image + y * s->row + c->pieces[p];
        r->step[p] = s->pixel;
    }
    r->out = c->out.base + image * c->out.image + y * c->out.row;
    r->add = c->add.base ? c->add.base + image * c->add.image + y * c->add.row : NULL;
}

/* Of one block of 16 outputs: how many there are, and bytes to it. */
INLINE int outputs_of(const Convolution *c, int block) {
    const int left = (int)c->outputs - 16 * block;
    return left < 16 ? left : 16;
}

/* Sums of up to 64 pixels of one block, or 32 of two, that were stored from tiles and wait for their last steps: those
   come a turn later, when the sums have arrived in the cache and other tiles are busy. */
typedef struct {
    float *sums;
    char *add, *out;
    int pixels, block, wide;
} Pending;

DOTS INLINE void finish_tile(const Convolution *c, const float *sums, const char *add, char *out, int pixels,
                             const int add_exact, const int out_exact, const int outputs) {
    for (int i = 0; i < pixels; i++, out += c->out.pixel) {
        finish(c, _mm512_load_ps(sums + 16 * i), add, out, add_exact, out_exact, outputs);
        if (add) add += c->add.pixel;
    }
}

DOTS INLINE void finish_pending(const Convolution *c, const Pending *p) {
    const float *sums = p->sums;
    for (int i = 0; i < p->pixels; i += PIXELS)
        for (int o = 0; o <= p->wide; o++, sums += 256) {
            const int pixels = p->pixels - i < PIXELS ? p->pixels - i : PIXELS, outputs = outputs_of(c, p->block + o);
            char *out = p->out + i * c->out.pixel + o * (c->out_exact ? 64 : 32);
            const char *add = p->add ? p->add + i * c->add.pixel + o * (c->add_exact ? 64 : 32) : NULL;
            if (outputs < 16 || c->out_exact || (add && c->add_exact))
                finish_tile(c, sums, add, out, pixels, (int)c->add_exact, (int)c->out_exact, outputs);
            else if (add)
                finish_tile(c, sums, add, out, pixels, 0, 0, 16);
            else
                finish_tile(c, sums, NULL, out, pixels, 0, 0, 16);
        }
}

/* 16 to 64 pixels of one block. */
TILES INLINE void narrow_tiles(const Convolution *c, const Row *r, int blocks, int block, int x, float *sums) {
    const int left = (int)c->width - x, tiles = left > 48 ? 4 : (left + 15) / 16;
    const uint16_t *w = c->weights + 512 * block;
    const float *bias = c->bias + 16 * block;
    _tile_loadd(0, bias, 0);
    if (tiles > 1) _tile_loadd(1, bias, 0);
    if (tiles > 2) _tile_loadd(2, bias, 0);
    if (tiles > 3) _tile_loadd(3, bias, 0);
    for (int p = 0; p < c->count; p++, w += 512 * blocks) {
        const int64_t step = r->step[p];
        const char *at = r->at[p] + x * step;
        _tile_loadd(6, w, 64);
        _tile_loadd(4, at, step);
        _tile_dpbf16ps(0, 4, 6);
        if (tiles > 1) {
            _tile_loadd(5, at + 16 * step, step);
            _tile_dpbf16ps(1, 5, 6);
        }
        if (tiles > 2) {
            _tile_loadd(4, at + 32 * step, step);
            _tile_dpbf16ps(2, 4, 6);
        }
        if (tiles > 3) {
            _tile_loadd(5, at + 48 * step, step);
            _tile_dpbf16ps(3, 5, 6);
        }
    }
    _tile_stored(0, sums, 64);
    if (tiles > 1) _tile_stored(1, sums + 256, 64);
    if (tiles > 2) _tile_stored(2, sums + 512, 64);
    if (tiles > 3) _tile_stored(3, sums + 768, 64);
}

/* 16 or 32 pixels of two blocks. */
TILES INLINE void wide_tiles(const Convolution *c, const Row *r, int blocks, int block, int x, float *sums) {
    const int left = (int)c->width - x, tiles = left > 16 ? 2 : 1;
    const uint16_t *w = c->weights + 512 * block;
    const float *bias = c->bias + 16 * block;
    _tile_loadd(0, bias, 0);
    _tile_loadd(1, bias + 16, 0);
    if (tiles > 1) {
        _tile_loadd(2, bias, 0);
        _tile_loadd(3, bias + 16, 0);
    }
    for (int p = 0; p < c->count; p++, w += 512 * blocks) {
        const int64_t step = r->step[p];
        const char *at = r->at[p] + x * step;
        _tile_loadd(6, w, 64);
        _tile_loadd(7, w + 512, 64);
        _tile_loadd(4, at, step);
        _tile_dpbf16ps(0, 4, 6);
        _tile_dpbf16ps(1, 4, 7);
        if (tiles > 1) {
            _tile_loadd(5, at + 16 * step, step);
            _tile_dpbf16ps(2, 5, 6);
            _tile_dpbf16ps(3, 5, 7);
        }
    }
    _tile_stored(0, sums, 64);
    _tile_stored(1, sums + 256, 64);
    if (tiles > 1) {
        _tile_stored(2, sums + 512, 64);
        _tile_stored(3, sums + 768, 64);
    }
}

/* tensors: a Convolution; rows of the flattened (image, row of the output) axis. */
TILES EXPORT void bf16_conv_amx(void *const *tensors, const int *numbers, int row_begin, int row_end) {
    (void)numbers;
    const Convolution own = *(const Convolution *)tensors[0], *c = &own; /* which no store can change */
    const int blocks = (int)(c->outputs + 15) / 16;
    float sums[2][4 * 256] __attribute__((aligned(64)));
    Pending pending = {sums[0], NULL, NULL, 0, 0, 0};
    struct {
        uint8_t palette, start, reserved[14];
        uint16_t bytes[16];
        uint8_t rows[16];
    } shape __attribute__((aligned(64))) = {.palette = 1};
    for (int t = 0; t < 8; t++) shape.bytes[t] = 64, shape.rows[t] = 16;
    _tile_loadconfig(&shape);
    Row r;
    for (int row = row_begin; row < row_end; row++) {
        begin_row(c, row, &r);
        for (int block = 0, wide; block < blocks; block += 1 + wide) {
            wide = block + 1 < blocks;
            const int most = wide ? 2 * PIXELS : 4 * PIXELS;
            for (int x = 0; x < c->width; x += most) {
                float *next = pending.sums == sums[0] ? sums[1] : sums[0];
                if (wide)
                    wide_tiles(c, &r, blocks, block, x, next);
                else
                    narrow_tiles(c, &r, blocks, block, x, next);
                finish_pending(c, &pending);
                const int left = (int)c->width - x;
                pending = (Pending){next, r.add, r.out, left < most ? left : most, block, wide};
                pending.out += x * c->out.pixel + block * (c->out_exact ? 64 : 32);
                if (r.add) pending.add += x * c->add.pixel + block * (c->add_exact ? 64 : 32);
            }
        }
    }
    finish_pending(c, &pending);
    _tile_release();
}

/* Some pixels of one or two blocks in registers. */
DOTS INLINE void dots(const Convolution *c, const Row *r, int blocks, int block, int x, const int pixels, const int wide) {
    __m512 sums[24];
#pragma clang loop unroll(full)
    for (int i = 0; i < pixels; i++)
#pragma clang loop unroll(full)
        for (int o = 0; o < wide; o++) sums[i * wide + o] = _mm512_loadu_ps(c->bias + 16 * (block + o));
    for (int p = 0; p < c->count; p++) {
        const uint16_t *w = c->weights + 512 * ((int64_t)p * blocks + block);
        const int64_t step = r->step[p];
        const char *at = r->at[p] + x * step;
        for (int pair = 0; pair < c->pairs[p]; pair++, w += 32, at += 4) {
            __m512bh weights[2];
#pragma clang loop unroll(full)
            for (int o = 0; o < wide; o++) weights[o] = (__m512bh)_mm512_loadu_si512(w + 512 * o);
#pragma clang loop unroll(full)
            for (int i = 0; i < pixels; i++) {
                int both;
                memcpy(&both, at + i * step, 4);
                const __m512bh value = (__m512bh)_mm512_set1_epi32(both);
#pragma clang loop unroll(full)
                for (int o = 0; o < wide; o++)
                    sums[i * wide + o] = _mm512_dpbf16_ps(sums[i * wide + o], value, weights[o]);
            }
        }
    }
#pragma clang loop unroll(full)
    for (int i = 0; i < pixels; i++)
#pragma clang loop unroll(full)
        for (int o = 0; o < wide; o++) {
            const char *add = r->add ? r->add + (x + i) * c->add.pixel + (block + o) * (c->add_exact ? 64 : 32) : NULL;
            char *out = r->out + (x + i) * c->out.pixel + (block + o) * (c->out_exact ? 64 : 32);
            finish(c, sums[i * wide + o], add, out, (int)c->add_exact, (int)c->out_exact, outputs_of(c, block + o));
        }
}

/* The same without AMX. */
DOTS EXPORT void bf16_conv_avx512(void *const *tensors, const int *numbers, int row_begin, int row_end) {
    (void)numbers;
    const Convolution own = *(const Convolution *)tensors[0], *c = &own;
    const int blocks = (int)(c->outputs + 15) / 16, width = (int)c->width;
    Row r;
    for (int row = row_begin; row < row_end; row++) {
        begin_row(c, row, &r);
        for (int block = 0; block < blocks; block += 2) {
            int x = 0;
            if (block + 1 < blocks) {
                for (; x + 12 <= width; x += 12) dots(c, &r, blocks, block, x, 12, 2);
                for (; x < width; x++) dots(c, &r, blocks, block, x, 1, 2);
            } else {
                for (; x + 16 <= width; x += 16) dots(c, &r, blocks, block, x, 16, 1);
                for (; x < width; x++) dots(c, &r, blocks, block, x, 1, 1);
            }
        }
    }
}

#else
EXPORT int bf16_convolutions(void) { return 0; }
#endif
