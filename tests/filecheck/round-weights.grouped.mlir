// RUN: qcompiler opt %s -p 'calibrate,choose-scheme,group-weights{group=16},round-weights'
func.func @main(%x: tensor<64x64xf32>) -> tensor<64x64xf32> {
  %w = "q.constant"() {value = dense_resource<w> : tensor<64x64xf32>} : () -> tensor<64x64xf32>
  %0 = "onnx.MatMul"(%x, %w) : (tensor<64x64xf32>, tensor<64x64xf32>) -> tensor<64x64xf32> loc("product")
  func.return %0 : tensor<64x64xf32>
}
// Weights with one scale for several rows keep rounding to nearest.
// CHECK-NOT: rounded
// CHECK: "onnx.MatMul"(%x, %w)
