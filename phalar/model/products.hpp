// Dense products of small matrices with long rows, and the sigmoid, on the vectors of the processor at hand.

#pragma once

#include <cstring>
#include <utility>
#include <vector>
#ifdef __AVX512F__
#include <immintrin.h>
#endif

namespace {

// TALL x WIDE and HIGH x BROAD vectors of sums fill most of the registers there are
#ifdef __AVX512F__
constexpr long LANES = 16, TALL = 9, WIDE = 3, HIGH = 8, BROAD = 3;
#else
constexpr long LANES = 8, TALL = 6, WIDE = 2, HIGH = 4, BROAD = 3;
#endif
constexpr long SLACK = LANES * WIDE;

typedef float V __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef int I __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
using Rows = std::vector<const float*>;

inline V& at(float* p) { return *reinterpret_cast<V*>(p); }
inline const V& at(const float* p) { return *reinterpret_cast<const V*>(p); }
inline V first(V v, long count) {  // the first lanes of v, then zeros, whatever junk is there
    static const int lane[] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    return *reinterpret_cast<const I*>(lane) < int(count) ? v : V{};
}
inline float sum(V v) {
    float part[LANES];
    std::memcpy(part, &v, sizeof v);
    for (long half = LANES / 2; half; half /= 2)
        for (long l = 0; l < half; ++l) part[l] += part[l + half];
    return part[0];
}
inline void hold(V& v) {  // gcc would repeat the load in each product that uses v, at half the speed
#ifdef __AVX__
    asm("" : "+v"(v));
#endif
}
inline V sigmoid(V x) {
    const V z = x * -1.44269504f, shifted = z + 12582912.f;  // the sum with 1.5 * 2^23 is rounded to a whole number
    V whole = shifted - 12582912.f;
    const V rest = z - whole;  // e^-x = 2^whole * 2^rest
    V e = 1.327647199e-3f * rest + 9.675541334e-3f;  // minimax polynomial, relative error 8e-8
    e = e * rest + 5.550713274e-2f;
    e = e * rest + 2.402211972e-1f;
    e = e * rest + 6.931469671e-1f;
    e = e * rest + 1.000000072f;
#ifdef __AVX512F__
    e = (V)_mm512_scalef_ps((__m512)e, (__m512)whole);
#else
    whole = whole < 126.f ? whole : V{} + 126.f;
    whole = whole > -126.f ? whole : V{} - 126.f;
    e *= (V)((__builtin_convertvector(whole, I) + 127) << 23);
#endif
    return 1.f / (1.f + e);
}

// f(std::integral_constant<long, n>) for an n of 1..MAX that is known at run time
template <long MAX, class F>
void specialise(long n, F f) {
    [&]<long... N>(std::integer_sequence<long, N...>) {
        ((n == N + 1 ? f(std::integral_constant<long, N + 1>{}) : void()), ...);
    }(std::make_integer_sequence<long, MAX>{});
}
inline long share(long total, long most) {  // the first of equal shares of at most `most`
    const long parts = (total + most - 1) / most;
    return (total + parts - 1) / parts;
}

// A matrix of rows x (taps * columns), and its product with as many rows of n points: out(row, point, LANES points).
struct Matrix {
    long rows, K;
    std::vector<float> packed;

    template <class Entry>
    Matrix(long rows, long columns, long taps, Entry entry) : rows(rows), K(taps * columns) {
        packed.reserve(rows * K);
        for (long m = 0, h; m < rows; m += h) {
            h = share(rows - m, TALL);
            for (long d = 0; d < taps; ++d)
                for (long c = 0; c < columns; ++c)
                    for (long i = 0; i < h; ++i) packed.push_back(entry(m + i, c, d));
        }
    }
    template <class Out>
    void times(const Rows& source, long n, Out out) const {
        for (long m = 0, h; m < rows; m += h) {
            h = share(rows - m, TALL);
            specialise<TALL>(h, [&](auto height) {
                constexpr long H = height;
                for (long p = 0; p < n; p += SLACK) {
                    V sums[H][WIDE] = {};
                    const float* w = packed.data() + m * K;
                    for (long k = 0; k < K; ++k, w += H)
                        for (long i = 0; i < H; ++i)
                            for (long j = 0; j < WIDE; ++j) sums[i][j] += w[i] * at(source[k] + p + j * LANES);
                    for (long i = 0; i < H; ++i)
                        for (long j = 0; j < WIDE; ++j) out(m + i, p + j * LANES, sums[i][j]);
                }
            });
        }
    }
};

// The inner products of A rows with B rows, added up over tiles, each as a vector of partial sums until it is read.
struct Correlation {
    long A, B;
    std::vector<float> sums;
    Correlation(long A, long B) : A(A), B(B), sums(A * B * LANES) {}
    float operator()(long a, long b) const { return sum(at(&sums[(a * B + b) * LANES])); }

    void add(const Rows& left, const Rows& right, long n) {
        for (long a = 0, h; a < A; a += h) {
            h = share(A - a, HIGH);
            for (long b = 0, w; b < B; b += w) {
                w = share(B - b, BROAD);
                specialise<HIGH>(h, [&](auto height) {
                    specialise<BROAD>(w, [&](auto width) {
                        add_block<height, width>(&left[a], &right[b], n, &sums[(a * B + b) * LANES]);
                    });
                });
            }
        }
    }
    template <long H, long W>
    void add_block(const float* const* left, const float* const* right, long n, float* total) const {
        V sums[H][W] = {};
        const auto step = [&](long p, auto cut) {
            V r[W];
            for (long j = 0; j < W; ++j) r[j] = cut(at(right[j] + p));
            for (long i = 0; i < H; ++i) {
                V l = cut(at(left[i] + p));
                hold(l);
                for (long j = 0; j < W; ++j) sums[i][j] += l * r[j];
            }
        };
        long p = 0;
        for (; p + LANES <= n; p += LANES) step(p, [](V v) { return v; });
        if (p < n) step(p, [&](V v) { return first(v, n - p); });
        for (long i = 0; i < H; ++i)
            for (long j = 0; j < W; ++j) at(total + (i * B + j) * LANES) += sums[i][j];
    }
};

}  // namespace
