/* Rows of a kernel shared out among the threads of the OpenMP that torch brought along: a second pool of threads would
   fight with its, which keep turning for a while after each of torch's operators. */

#include "kernels.h"

int interface = INTERFACE;
int exhausted = 0;

typedef void (*Parallel)(void (*body)(void *), void *context, unsigned threads, unsigned flags);

typedef struct {
    Kernel kernel;
    void *const *tensors;
    const int *numbers;
    int rows, share, next;
} Work;

static void take(void *context) {
    Work *work = context;
    for (;;) {
        const int begin = __atomic_fetch_add(&work->next, work->share, __ATOMIC_RELAXED);
        if (begin >= work->rows) return;
        const int end = work->rows - begin < work->share ? work->rows : begin + work->share;
        work->kernel(work->tensors, work->numbers, begin, end);
    }
}

/* parallel: GOMP_parallel. Whoever is free takes the next share. */
EXPORT void over_rows(Parallel parallel, Kernel kernel, void *const *tensors, const int *numbers, int rows, int share,
                      int threads) {
    Work work = {kernel, tensors, numbers, rows, share, 0};
    parallel(take, &work, (unsigned)threads, 0);
}
