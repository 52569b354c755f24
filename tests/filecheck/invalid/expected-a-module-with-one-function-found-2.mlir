// RUN: qcompiler opt %s --verify-only
func.func @a() {
  func.return
}
func.func @b() {
  func.return
}
// CHECK: error: {{.*}}expected a module with one function, found 2
