"""What lowering asks of the host; see `TargetSpec.kernels`."""

from qcompiler.targets.cpu.conv import conv_kernel, conv_rules
from qcompiler.targets.cpu.grouped import grouped_kernel
from qcompiler.targets.cpu.matmul import matmul_kernel, matmul_rules
from qcompiler.targets.host.spec import cpu_flags, tvm_target

__all__ = ["conv_kernel", "conv_rules", "cpu_flags", "grouped_kernel", "matmul_kernel", "matmul_rules", "tvm_target"]
