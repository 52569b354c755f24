// RUN: qcompiler opt %s --verify-only
func.func @main(%x: tensor<2xf32>) {
  %0 = "q.constant"() {value = dense_resource<c> : tensor<3xf32>} : () -> tensor<2xf32>
  func.return
}
// CHECK: error: {{.*}}the resource has type tensor<3xf32>, the result tensor<2xf32>
