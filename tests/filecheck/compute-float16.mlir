// RUN: qcompiler opt %s --target arm-cpu -p 'compute-float16'
module attributes {q.stage = "chosen"} {
  func.func @main(%x: tensor<4x3xf32>) -> (tensor<4x3xf32>, tensor<4x3xf32>) {
    %w = "q.constant"() {value = dense_resource<w> : tensor<4x3xf32>} : () -> tensor<4x3xf32>
    %0 = "onnx.Mul"(%x, %w) {q.float = "recipe", q.recipe = {precision = "float16"}} : (tensor<4x3xf32>, tensor<4x3xf32>) -> tensor<4x3xf32> loc("first")
    %1 = "onnx.Tanh"(%0) {q.float = "recipe", q.recipe = {precision = "float16"}} : (tensor<4x3xf32>) -> tensor<4x3xf32> loc("second")
    %2 = "onnx.Tanh"(%x) {q.float = "recipe", q.recipe = {precision = "float32"}} : (tensor<4x3xf32>) -> tensor<4x3xf32> loc("whole")
    func.return %1, %2 : tensor<4x3xf32>, tensor<4x3xf32>
  }
}
// CHECK: %[[X:.*]] = "onnx.Cast"(%x) {q.float = "computed in float16, as the recipe asks", to = 10 : i64} : (tensor<4x3xf32>) -> tensor<4x3xf16> loc("first")
// CHECK-NEXT: %[[W:.*]] = "q.constant"() {value = dense_resource<w.f16> : tensor<4x3xf16>}
// CHECK-NEXT: %[[Y:.*]] = "onnx.Mul"(%[[X]], %[[W]])
// CHECK: %[[Z:.*]] = "onnx.Tanh"(%[[Y]]) {{.*}} (tensor<4x3xf16>) -> tensor<4x3xf16> loc("second")
// CHECK-NEXT: "onnx.Cast"(%[[Z]]) {q.float = "computed in float16, as the recipe asks", to = 1 : i64} : (tensor<4x3xf16>) -> tensor<4x3xf32>
// CHECK-NEXT: "onnx.Tanh"(%x) {{.*}} (tensor<4x3xf32>) -> tensor<4x3xf32> loc("whole")
