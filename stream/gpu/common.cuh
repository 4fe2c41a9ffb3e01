// What every kernel file begins with. No headers: NVRTC has none, and the host's shim brings its own.
typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;
typedef long long i64;

#define NOT_A_NUMBER __int_as_float(0x7fffffff)
