"""What lowering asks of Mali; see `TargetSpec.kernels`."""

from qcompiler.targets.mali.conv import conv_kernel, conv_rules
from qcompiler.targets.mali.matmul import grouped_kernel, matmul_kernel, matmul_rules

__all__ = ["conv_kernel", "conv_rules", "grouped_kernel", "matmul_kernel", "matmul_rules"]
