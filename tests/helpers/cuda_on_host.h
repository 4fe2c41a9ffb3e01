// Enough of CUDA for our kernels to run on a CPU, one thread after the other, or as fibers that meet at barriers.
#include <setjmp.h>
#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <vector>

struct Index {
    unsigned x, y, z;
};
static Index threadIdx, blockIdx, blockDim, gridDim;

#define __global__
#define __device__ static inline
#define __shared__ static

using std::isfinite;
using std::max;
using std::min;

template <class T> static T atomicAdd(T* at, T more) { T before = *at; *at += more; return before; }
template <class T> static T atomicMin(T* at, T other) { T before = *at; *at = min(before, other); return before; }
template <class T> static T atomicExch(T* at, T other) { T before = *at; *at = other; return before; }
static float __int_as_float(int bits) { float v; memcpy(&v, &bits, 4); return v; }
static int __float_as_int(float v) { int bits; memcpy(&bits, &v, 4); return bits; }
static long long __double_as_longlong(double v) { long long bits; memcpy(&bits, &v, 8); return bits; }

// Fibers live for ever and take block after block; they change places by _setjmp and _longjmp, which ask no kernel.
static jmp_buf scheduler, places[1024];
static bool made[1024], finished[1024];
static unsigned current;
static const std::function<void()>* work;
static char* stacks;
static const size_t STACK = 1 << 16;

static void rest() {
    if (!_setjmp(places[current])) _longjmp(scheduler, 1);
}

static void __syncthreads() { rest(); }
static void __syncwarp() { rest(); }  // only in blocks of one warp

static void fiber() {
    while (true) {
        (*work)();
        finished[current] = true;
        rest();
    }
}

// Until it finishes, or waits for the others.
__attribute__((noinline)) static void resume(unsigned t) {
    current = t;
    if (_setjmp(scheduler)) return;
    if (made[t]) _longjmp(places[t], 1);
    made[t] = true;
    if (!stacks) stacks = (char*)malloc(1024 * STACK);
    ucontext_t begin;
    getcontext(&begin);
    begin.uc_stack.ss_sp = stacks + t * STACK;
    begin.uc_stack.ss_size = STACK;
    begin.uc_link = nullptr;
    makecontext(&begin, fiber, 0);
    setcontext(&begin);
}

static Index thread_number(unsigned t) {
    return {t % blockDim.x, t / blockDim.x % blockDim.y, t / blockDim.x / blockDim.y};
}

// order: 1 forwards, -1 backwards, of blocks and of threads: what depends on it is a race.
static void launch(const unsigned* grid, const unsigned* block, int order, bool meets, std::function<void()> kernel) {
    gridDim = {grid[0], grid[1], grid[2]};
    blockDim = {block[0], block[1], block[2]};
    unsigned threads = block[0] * block[1] * block[2];
    unsigned long long blocks = (unsigned long long)grid[0] * grid[1] * grid[2];
    work = &kernel;
    for (unsigned long long n = 0; n < blocks; n++) {
        unsigned long long b = order > 0 ? n : blocks - 1 - n;
        blockIdx = {(unsigned)(b % grid[0]), (unsigned)(b / grid[0] % grid[1]), (unsigned)(b / grid[0] / grid[1])};
        if (!meets) {
            for (unsigned m = 0; m < threads; m++) {
                threadIdx = thread_number(order > 0 ? m : threads - 1 - m);
                kernel();
            }
            continue;
        }
        for (unsigned t = 0; t < threads; t++) finished[t] = false;
        for (bool running = true; running;) {
            running = false;
            for (unsigned m = 0; m < threads; m++) {
                unsigned t = order > 0 ? m : threads - 1 - m;
                if (finished[t]) continue;
                threadIdx = thread_number(t);
                resume(t);
                running = running || !finished[t];
            }
        }
    }
}
