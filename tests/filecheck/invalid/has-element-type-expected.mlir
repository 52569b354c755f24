// RUN: qcompiler opt %s --verify-only
func.func @main(%x: tensor<2xf32>, %y: tensor<2xi32>) {
  %0 = "onnx.Add"(%x, %y) : (tensor<2xf32>, tensor<2xi32>) -> tensor<2xf32> loc("sum")
  func.return
}
// CHECK: error: {{.*}}B has element type i32, expected f32
