// RUN: qcompiler opt %s -p 'apply-recipe{keep-float="block.?.*"}'
func.func @main(%x: tensor<1x4xf32>) -> (tensor<1x4xf32>, tensor<1x4xf32>, tensor<1x4xf32>) {
  %0 = "onnx.Sigmoid"(%x) : (tensor<1x4xf32>) -> tensor<1x4xf32> loc("block.1.gate")
  %1 = "onnx.Tanh"(%x) : (tensor<1x4xf32>) -> tensor<1x4xf32> loc("block.2.gate")
  %2 = "onnx.Exp"(%x) : (tensor<1x4xf32>) -> tensor<1x4xf32> loc("block.10.gate")
  func.return %0, %1, %2 : tensor<1x4xf32>, tensor<1x4xf32>, tensor<1x4xf32>
}
// The question mark stands for one character.
// CHECK: "onnx.Sigmoid"(%x) {q.recipe = {precision = "float32"}}
// CHECK-NEXT: "onnx.Tanh"(%x) {q.recipe = {precision = "float32"}}
// CHECK-NEXT: "onnx.Exp"(%x) :
