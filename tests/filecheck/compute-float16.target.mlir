// RUN: qcompiler opt %s --target host:portable -p 'compute-float16'
module attributes {q.stage = "chosen"} {
  func.func @main(%x: tensor<4x3xf32>) -> tensor<4x3xf32> {
    %0 = "onnx.Tanh"(%x) {q.float = "recipe", q.recipe = {precision = "float16"}} : (tensor<4x3xf32>) -> tensor<4x3xf32> loc("half")
    func.return %0 : tensor<4x3xf32>
  }
}
// The target does not compute in float16.
// CHECK-NOT: onnx.Cast
// CHECK: "onnx.Tanh"(%x) {{.*}} : (tensor<4x3xf32>) -> tensor<4x3xf32> loc("half")
