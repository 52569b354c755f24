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

_FORBIDDEN = {
    r"0x000000ff\s*<<": "a vector taken apart by shifts of a scalar (apache/tvm#5464)",
    r"\d\.\d+e[+-]\d+f?\b": "a float constant of six digits",
    r"\b(?:u?char|u?short|u?int|u?long|float|half)(?:2|3|4|8|16)\(": "a vector constructor of C++",
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
