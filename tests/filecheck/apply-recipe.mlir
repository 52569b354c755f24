// RUN: qcompiler opt %s -p 'apply-recipe{keep-float=gate}'
func.func @main(%x: tensor<1x4xf32>) -> (tensor<1x4xf32>, tensor<1x4xf32>) {
  %0 = "onnx.Sigmoid"(%x) : (tensor<1x4xf32>) -> tensor<1x4xf32> loc(fused["first", "gate"])
  %1 = "onnx.Tanh"(%x) : (tensor<1x4xf32>) -> tensor<1x4xf32> loc("other")
  func.return %0, %1 : tensor<1x4xf32>, tensor<1x4xf32>
}
// CHECK: "onnx.Sigmoid"(%x) {q.recipe = {precision = "float32"}}
// CHECK-NEXT: "onnx.Tanh"(%x) :
// -----
func.func @main(%x: tensor<1x4xf32>) -> tensor<1x4xf32> {
  %0 = "onnx.Sigmoid"(%x) : (tensor<1x4xf32>) -> tensor<1x4xf32> loc("gait")
  func.return %0 : tensor<1x4xf32>
}
// CHECK: error: {{.*}}: the recipe has a rule for 'gate', but no node or input is called so; did you mean 'gait'?
