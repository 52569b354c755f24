/* A launcher for model.h: a fixed pool of POSIX threads, which take tasks as they get free. It allocates nothing.

   Each launch is numbered. `ticket` holds the number of the present one in its upper half and the next task to take in
   its lower half, so that a thread that comes late cannot take a task of another launch. */
#define _POSIX_C_SOURCE 200809L

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>

#include "model.h"

enum { MOST_THREADS = 64, TASKS_PER_THREAD = 4, LOOKS_BEFORE_SLEEP = 2000 };
#define NO_TASK UINT32_MAX

static pthread_t workers[MOST_THREADS];
static int32_t worker_count;
static uint32_t last_number;

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t wake = PTHREAD_COND_INITIALIZER;
static atomic_int sleepers;
static atomic_bool stopping;

static atomic_flag busy = ATOMIC_FLAG_INIT;
static _Atomic uint64_t ticket = NO_TASK;
static _Atomic model_task present_task;
static void* _Atomic present_context;
static _Atomic uint32_t present_tasks, finished;

static uint32_t launch_number(void) { return (uint32_t)(atomic_load(&ticket) >> 32); }

static void relax(void) {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__) || defined(__arm__)
  __asm__ volatile("yield");
#endif
}

/* Takes and executes tasks of the present launch until none is left. */
static void help(void) {
  uint64_t seen = atomic_load(&ticket);
  for (;;) {
    model_task task = atomic_load(&present_task);
    void* context = atomic_load(&present_context);
    uint32_t next = (uint32_t)seen, tasks = atomic_load(&present_tasks);
    if (next >= tasks) return;
    /* What was read belongs to this launch if the ticket is still the same. */
    if (!atomic_compare_exchange_strong(&ticket, &seen, seen + 1)) continue;
    task(context, (int32_t)next, (int32_t)tasks);
    atomic_fetch_add(&finished, 1);
    seen = atomic_load(&ticket);
  }
}

/* Waits for a launch with another number; 0 if the pool ends. */
static int await_launch(uint32_t number) {
  for (int look = 0; look < LOOKS_BEFORE_SLEEP; look++) {
    if (atomic_load(&stopping)) return 0;
    if (launch_number() != number) return 1;
    relax();
  }
  pthread_mutex_lock(&mutex);
  atomic_fetch_add(&sleepers, 1);
  while (launch_number() == number && !atomic_load(&stopping)) pthread_cond_wait(&wake, &mutex);
  atomic_fetch_sub(&sleepers, 1);
  pthread_mutex_unlock(&mutex);
  return !atomic_load(&stopping);
}

static void* work(void* unused) {
  uint32_t number = last_number;
  while (await_launch(number)) {
    number = launch_number();
    help();
  }
  return unused;
}

static void wake_all(void) {
  pthread_mutex_lock(&mutex);
  pthread_cond_broadcast(&wake);
  pthread_mutex_unlock(&mutex);
}

static void launch(model_task task, void* context) {
  if (atomic_flag_test_and_set(&busy)) { /* another call has the pool */
    task(context, 0, 1);
    return;
  }
  uint64_t number = launch_number();
  uint32_t tasks = (uint32_t)(worker_count + 1) * TASKS_PER_THREAD;
  atomic_store(&ticket, number << 32 | NO_TASK);
  atomic_store(&present_task, task);
  atomic_store(&present_context, context);
  atomic_store(&present_tasks, tasks);
  atomic_store(&finished, 0);
  atomic_store(&ticket, (number + 1) << 32);
  if (atomic_load(&sleepers)) wake_all();
  help();
  for (int look = 0; atomic_load(&finished) < tasks; look++) {
    if (look < LOOKS_BEFORE_SLEEP) relax();
    else sched_yield();
  }
  atomic_flag_clear(&busy);
}

int32_t model_set_threads(int32_t threads) {
  model_parallel_launch = NULL;
  atomic_store(&stopping, 1);
  wake_all();
  while (worker_count) pthread_join(workers[--worker_count], NULL);
  atomic_store(&stopping, 0);
  last_number = launch_number();
  if (threads > MOST_THREADS) threads = MOST_THREADS;
  while (worker_count + 1 < threads && !pthread_create(&workers[worker_count], NULL, work, NULL)) worker_count++;
  if (worker_count) model_parallel_launch = launch;
  return worker_count + 1;
}
