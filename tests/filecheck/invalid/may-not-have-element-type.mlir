// RUN: qcompiler opt %s --verify-only
func.func @main(%x: tensor<1x1x4x4xi32>, %w: tensor<1x1x1x1xi32>) {
  %0 = "onnx.Conv"(%x, %w) : (tensor<1x1x4x4xi32>, tensor<1x1x1x1xi32>) -> tensor<1x1x4x4xi32> loc("conv")
  func.return
}
// CHECK: error: {{.*}}may not have element type i32
