// RUN: qcompiler opt %s -p 'store-float16'
module attributes {q.stage = "chosen"} {
  func.func @main(%x: tensor<1x4xf32>) -> (tensor<1x3xf32>, tensor<1x3xf32>) {
    %w = "q.constant"() {value = dense_resource<w> : tensor<4x3xf32>} : () -> tensor<4x3xf32>
    %0 = "onnx.MatMul"(%x, %w) {q.float = "recipe", q.recipe = {precision = "float16"}} : (tensor<1x4xf32>, tensor<4x3xf32>) -> tensor<1x3xf32> loc("half")
    %1 = "onnx.MatMul"(%x, %w) {q.float = "recipe", q.recipe = {precision = "float32"}} : (tensor<1x4xf32>, tensor<4x3xf32>) -> tensor<1x3xf32> loc("whole")
    func.return %0, %1 : tensor<1x3xf32>, tensor<1x3xf32>
  }
}
// CHECK: %[[H:.*]] = "q.constant"() {value = dense_resource<w.f16> : tensor<4x3xf16>} : () -> tensor<4x3xf16> loc("half")
// CHECK-NEXT: %[[C:.*]] = "onnx.Cast"(%[[H]]) {q.float = "the weight is stored in float16, as the recipe asks", to = 1 : i64}
// CHECK-NEXT: "onnx.MatMul"(%x, %[[C]])
// CHECK-NEXT: "onnx.MatMul"(%x, %w)
