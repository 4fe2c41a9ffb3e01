// bslz4 frames: each block is LZ4, then bits transposed; and counts of any kind to f4.
// Reads and writes are checked: a payload that lies about itself sets `failed`, and touches nothing else.

#define LARGEST_BLOCK 8192

// The 8 x 8 bits of a word transposed: bit j of byte t becomes bit t of byte j. (Hacker's Delight, 7-3)
__device__ u64 transposed(u64 x) {
    u64 t = (x ^ (x >> 7)) & 0x00AA00AA00AA00AAull;
    x ^= t ^ (t << 7);
    t = (x ^ (x >> 14)) & 0x0000CCCC0000CCCCull;
    x ^= t ^ (t << 14);
    t = (x ^ (x >> 28)) & 0x00000000F0F0F0F0ull;
    return x ^ t ^ (t << 28);
}

// Bits of 8 elements in their `itemsize` byte planes -> the elements. planes: 8 x itemsize rows of `groups` bytes.
__device__ void unshuffle(const u8* planes, int groups, int group, int itemsize, u8* out) {
    u64 part[8];
    for (int e = 0; e < itemsize; e++) {
        u64 x = 0;
        for (int t = 0; t < 8; t++) x |= (u64)planes[(8 * e + t) * groups + group] << (8 * t);
        part[e] = transposed(x);
    }
    if (itemsize == 2) {  // by far the usual: two wide writes
        u64* wide = (u64*)out;
        for (int half = 0; half < 2; half++) {
            u64 w = 0;
            for (int j = 0; j < 4; j++) {
                int from = 8 * (4 * half + j);
                w |= (((part[0] >> from) & 255) | (((part[1] >> from) & 255) << 8)) << (16 * j);
            }
            wide[half] = w;
        }
        return;
    }
    for (int j = 0; j < 8; j++)
        for (int e = 0; e < itemsize; e++) out[j * itemsize + e] = (u8)(part[e] >> (8 * j));
}

// One LZ4 block by one warp: every lane reads the same tokens, and all copy together.
// Returns whether it was exactly `size` bytes. plain: shared memory.
__device__ bool lz4_block(const u8* at, const u8* end, u8* plain, int size, int lane) {
    int done = 0;
    while (true) {
        if (at >= end) return false;
        int token = *at++;
        int literals = token >> 4;
        if (literals == 15) {
            int more;
            do {
                if (at >= end || literals > size) return false;
                more = *at++;
                literals += more;
            } while (more == 255);
        }
        if (literals > end - at || literals > size - done) return false;
        for (int i = lane; i < literals; i += 32) plain[done + i] = at[i];
        at += literals;
        done += literals;
        if (at == end) return done == size;  // the last sequence has no match
        if (end - at < 2) return false;
        int offset = at[0] | (at[1] << 8);
        at += 2;
        if (offset == 0 || offset > done) return false;
        int length = (token & 15) + 4;
        if (length == 19) {
            int more;
            do {
                if (at >= end || length > size) return false;
                more = *at++;
                length += more;
            } while (more == 255);
        }
        if (length > size - done) return false;
        __syncwarp();  // what is copied from here was written by other lanes
        for (int i = lane; i < length; i += 32) plain[done + i] = plain[done - offset + i % offset];
        done += length;
    }
}

// grid: blocks of the payload; 32 threads. start, length: where each block's LZ4 lies in the payload.
// head: bytes in blocks; what follows them, less than 8 elements, is copied as it is.
extern "C" __global__ void decode_bslz4(
    const u8* payload, const u32* start, const u32* length, u8* out, int* failed,
    int block_bytes, i64 head, i64 tail_at, int tail, int itemsize) {
    __shared__ u64 memory[LARGEST_BLOCK / 8];
    u8* plain = (u8*)memory;
    int lane = threadIdx.x;
    i64 begin = (i64)blockIdx.x * block_bytes;
    int size = (int)(head - begin < block_bytes ? head - begin : block_bytes);
    if (size > 0) {
        const u8* at = payload + start[blockIdx.x];
        if (!lz4_block(at, at + length[blockIdx.x], plain, size, lane)) {
            if (lane == 0) atomicExch(failed, 1);
            return;
        }
        __syncwarp();
        int groups = size / itemsize / 8;
        for (int g = lane; g < groups; g += 32)
            unshuffle(plain, groups, g, itemsize, out + begin + (i64)g * 8 * itemsize);
    }
    if (blockIdx.x == 0 && lane < tail) out[head + lane] = payload[tail_at + lane];
    if (blockIdx.x == 0 && lane + 32 < tail) out[head + lane + 32] = payload[tail_at + lane + 32];
}

__device__ u8 swapped(u8 v) { return v; }
__device__ u16 swapped(u16 v) { return (u16)((v << 8) | (v >> 8)); }
__device__ u32 swapped(u32 v) { return (v << 24) | ((v & 0xff00u) << 8) | ((v >> 8) & 0xff00u) | (v >> 24); }

// n counts of images of `pixels` each; bad pixels, if any are told, become NaN. T is read as BITS, byte order mended.
#define TO_F4(NAME, T, BITS)                                                                              \
    extern "C" __global__ void NAME(                                                                      \
        const BITS* counts, const u8* bad, float* out, i64 n, i64 pixels, int swap, int any_bad) {        \
        i64 i = (i64)blockIdx.x * blockDim.x + threadIdx.x;                                               \
        if (i >= n) return;                                                                               \
        BITS bits = swap ? swapped(counts[i]) : counts[i];                                                \
        T value;                                                                                          \
        memcpy(&value, &bits, sizeof(T));                                                                 \
        out[i] = any_bad && bad[i % pixels] ? NOT_A_NUMBER : (float)value;                                \
    }

TO_F4(to_f4_u1, u8, u8)
TO_F4(to_f4_i1, signed char, u8)
TO_F4(to_f4_u2, u16, u16)
TO_F4(to_f4_i2, short, u16)
TO_F4(to_f4_u4, u32, u32)
TO_F4(to_f4_i4, int, u32)
TO_F4(to_f4_f4, float, u32)
