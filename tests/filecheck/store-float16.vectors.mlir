// RUN: qcompiler opt %s -p 'store-float16'
module attributes {q.stage = "chosen"} {
  func.func @main(%x: tensor<1x4xf32>) -> tensor<1x3xf32> {
    %w = "q.constant"() {value = dense_resource<w> : tensor<4x3xf32>} : () -> tensor<4x3xf32>
    %b = "q.constant"() {value = dense_resource<b> : tensor<3xf32>} : () -> tensor<3xf32>
    %0 = "onnx.Gemm"(%x, %w, %b) {q.float = "recipe", q.recipe = {precision = "float16"}} : (tensor<1x4xf32>, tensor<4x3xf32>, tensor<3xf32>) -> tensor<1x3xf32> loc("half")
    func.return %0 : tensor<1x3xf32>
  }
}
// The bias, a vector, stays as it is.
// CHECK: %[[H:.*]] = "q.constant"() {value = dense_resource<w.f16> : tensor<4x3xf16>}
// CHECK-NEXT: %[[C:.*]] = "onnx.Cast"(%[[H]])
// CHECK-NEXT: "onnx.Gemm"(%x, %[[C]], %b)
