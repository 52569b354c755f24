"""What lowering asks of an ARM CPU; see `TargetSpec.kernels`."""

from qcompiler.targets.arm_cpu.spec import cpu_flags, tvm_target
from qcompiler.targets.cpu.conv import conv_kernel, conv_rules
from qcompiler.targets.cpu.grouped import grouped_kernel
from qcompiler.targets.cpu.matmul import matmul_kernel, matmul_rules

__all__ = ["conv_kernel", "conv_rules", "cpu_flags", "grouped_kernel", "matmul_kernel", "matmul_rules", "tvm_target"]
