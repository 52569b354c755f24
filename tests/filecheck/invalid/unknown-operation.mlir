// RUN: qcompiler opt %s --verify-only
func.func @main(%x: tensor<2xf32>) {
  %0 = "q.teleport"(%x) : (tensor<2xf32>) -> tensor<2xf32>
  func.return
}
// CHECK: error: {{.*}}Operation q.teleport is not registered
