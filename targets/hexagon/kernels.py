"""What lowering asks of Hexagon; see `TargetSpec.kernels`."""

from qcompiler.targets.cpu.grouped import grouped_kernel
from qcompiler.targets.hexagon.conv import conv_kernel, conv_rules
from qcompiler.targets.hexagon.matmul import matmul_kernel, matmul_rules
from qcompiler.targets.hexagon.spec import cpu_flags, tvm_target

__all__ = ["conv_kernel", "conv_rules", "cpu_flags", "grouped_kernel", "matmul_kernel", "matmul_rules", "tvm_target"]
