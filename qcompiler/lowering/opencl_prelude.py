"""What stands in front of the kernels of an OpenCL program, and what must not stand in them."""

from __future__ import annotations

import re

from qcompiler.errors import TargetError

PRELUDE = """\
#pragma OPENCL FP_CONTRACT OFF

/* c + the sum of four products of int8. QCOMPILER_NO_DOT forces the plain form; QCOMPILER_EMULATE_DOT takes the path of
   Arm's extension with a function of the same meaning. */
#if defined(QCOMPILER_EMULATE_DOT)
inline int arm_dot_acc(char4 a, char4 b, int c) { return c + a.x * b.x + a.y * b.y + a.z * b.z + a.w * b.w; }
#define qc_dot4(a, b, c) arm_dot_acc(a, b, c)
#elif defined(cl_arm_integer_dot_product_accumulate_int8) && !defined(QCOMPILER_NO_DOT)
#pragma OPENCL EXTENSION cl_arm_integer_dot_product_accumulate_int8 : enable
#define qc_dot4(a, b, c) arm_dot_acc(a, b, c)
#elif defined(cl_khr_integer_dot_product) && !defined(QCOMPILER_NO_DOT)
#pragma OPENCL EXTENSION cl_khr_integer_dot_product : enable
#define qc_dot4(a, b, c) ((c) + dot(a, b))
#else
inline int qc_dot4(char4 a, char4 b, int c)
{
  const int4 p = convert_int4(a) * convert_int4(b);
  return c + ((p.x + p.y) + (p.z + p.w));
}
#endif

/* The same of four rows of b. */
inline int4 qc_dot16(char4 a, char16 b, int4 c)
{
  return (int4)(qc_dot4(a, b.s0123, c.x), qc_dot4(a, b.s4567, c.y), qc_dot4(a, b.s89ab, c.z), qc_dot4(a, b.scdef, c.w));
}

#define qc_lanes2_0(v) ((v).s01)
#define qc_lanes2_2(v) ((v).s23)
#define qc_lanes2_4(v) ((v).s45)
#define qc_lanes2_6(v) ((v).s67)
#define qc_lanes4_0(v) ((v).s0123)
#define qc_lanes4_4(v) ((v).s4567)
#define qc_lanes4_8(v) ((v).s89ab)
#define qc_lanes4_12(v) ((v).scdef)
#define qc_lanes8_0(v) ((v).lo)
#define qc_lanes8_8(v) ((v).hi)

/* a / b rounded to nearest even, as OpenCL promises it of no division: a quotient within a few units in the last place,
   corrected by its exact remainder (P. Markstein, Computation of elementary functions on the IBM RISC System/6000).
   Quotients of 2^22 and more, infinities among them, saturate whatever is stored and are left as they are. */
inline float qc_div(float a, float b)
{
  const float r0 = 1.0f / b;
  const float r = fma(fma(-b, r0, 1.0f), r0, r0);
  const float q = a * r;
  const float c = fma(fma(-q, b, a), r, q);
  return fabs(q) < 4194304.0f ? c : q;
}
inline float2 qc_div2(float2 a, float2 b) { return (float2)(qc_div(a.x, b.x), qc_div(a.y, b.y)); }
inline float4 qc_div4(float4 a, float4 b) { return (float4)(qc_div2(a.xy, b.xy), qc_div2(a.zw, b.zw)); }
"""

_HALF = """
/* float16, of which kernels see the bits. Arithmetic on it needs cl_khr_fp16. QCOMPILER_EMULATE_HALF does without, by
   float32, and gives the same: 24 bits hold twice 11 and two more, so that rounding twice is rounding once (S. A.
   Figueroa, When is double rounding innocuous?). */
#ifdef cl_khr_fp16
#pragma OPENCL EXTENSION cl_khr_fp16 : enable
inline float qc_from_half(ushort a) { return convert_float(as_half(a)); }
inline ushort qc_to_half(float a) { return as_ushort(convert_half_rte(a)); }
#define QC_NATIVE(name, value) \\
  inline ushort qc_half_##name(ushort i, ushort j) { half a = as_half(i), b = as_half(j); return as_ushort(value); } \\
  inline ushort2 qc_half_##name##2(ushort2 i, ushort2 j) \\
  { half2 a = as_half2(i), b = as_half2(j); return as_ushort2(value); } \\
  inline ushort4 qc_half_##name##4(ushort4 i, ushort4 j) \\
  { half4 a = as_half4(i), b = as_half4(j); return as_ushort4(value); }
#else
inline float qc_from_half(ushort a) { return vload_half(0, (const half*)&a); }
inline ushort qc_to_half(float a) { ushort r; vstore_half_rte(a, 0, (half*)&r); return r; }
#define QC_NATIVE QC_BY_FLOAT
#endif
inline float2 qc_from_half2(ushort2 a) { return (float2)(qc_from_half(a.x), qc_from_half(a.y)); }
inline float4 qc_from_half4(ushort4 a) { return (float4)(qc_from_half2(a.xy), qc_from_half2(a.zw)); }
inline ushort2 qc_to_half2(float2 a) { return (ushort2)(qc_to_half(a.x), qc_to_half(a.y)); }
inline ushort4 qc_to_half4(float4 a) { return (ushort4)(qc_to_half2(a.xy), qc_to_half2(a.zw)); }

#define QC_BY_FLOAT(name, value) \\
  inline ushort qc_half_##name(ushort i, ushort j) \\
  { float a = qc_from_half(i), b = qc_from_half(j); return qc_to_half(value); } \\
  inline ushort2 qc_half_##name##2(ushort2 i, ushort2 j) \\
  { return (ushort2)(qc_half_##name(i.x, j.x), qc_half_##name(i.y, j.y)); } \\
  inline ushort4 qc_half_##name##4(ushort4 i, ushort4 j) \\
  { return (ushort4)(qc_half_##name##2(i.xy, j.xy), qc_half_##name##2(i.zw, j.zw)); }
#if defined(cl_khr_fp16) || defined(QCOMPILER_EMULATE_HALF)
/* A quotient of float32 may be a few units in the last place off; corrected once, it is near enough to round. */
inline float qc_quotient(float a, float b)
{
  const float q = a / b, c = q + fma(-q, b, a) / b;
  return isfinite(c) ? c : q;
}
QC_NATIVE(add, a + b)
QC_NATIVE(sub, a - b)
QC_NATIVE(mul, a * b)
QC_NATIVE(max, fmax(a, b))
QC_NATIVE(min, fmin(a, b))
QC_BY_FLOAT(div, qc_quotient(a, b))
#endif
"""
"""In front of kernels that have float16."""

EXTENSIONS = {"cl_khr_fp16": r"\bqc_half_"}
"""What a device must have for kernels in which the pattern occurs."""


def prelude_of(kernels: str) -> str:
    """What stands in front of kernels."""
    return PRELUDE + (_HALF if re.search(r"\bqc_(half|from_half|to_half)", kernels) else "") + "\n"


_FORBIDDEN = {
    r"0x000000ff\s*<<": "a vector taken apart by shifts of a scalar (apache/tvm#5464)",
    r"\d\.\d+e[+-]\d+f?\b": "a float constant of six digits",
    r"\b(?:u?char|u?short|u?int|u?long|float|half)(?:2|3|4|8|16)\(": "a vector constructor of C++",
    r"\bhalf\d*\b": "a type that needs an extension even to be read",
    r"\b__local\b": "local memory, which Mali keeps in main memory",
    r"\bbarrier\s*\(": "a barrier",
    r"\bdouble\b": "float64, which Mali does not have",
}


def check_source(source: str) -> None:
    """Refuses kernels in which TVM's generator is known to be wrong, or that Mali does badly.

    Raises:
        TargetError: the text has one of the patterns.
    """
    for pattern, meaning in _FORBIDDEN.items():
        if (found := re.search(pattern, source)) is not None:
            line = source[source.rfind("\n", 0, found.start()) + 1 : source.find("\n", found.start())].strip()
            raise TargetError(
                f"the generated OpenCL source contains {meaning}: {line!r}; "
                "this is a fault of a schedule rule, the program was not written"
            )
