/* The floor: the least a broker can do, to read other figures against.
 *
 * One thread. It splits frames, finds `opaque`, appends the raw bytes of everything one wake-up brought with one pwrite
 * into a fallocated file (and one fdatasync with `sync`), and answers each frame with a well-formed reply. It checks
 * nothing, indexes nothing, keeps no queue.
 *
 *   cc -O2 -o /tmp/floor bench/floor.c && /tmp/floor PORT FILE [sync]
 *   fastmq bench send --broker 127.0.0.1:PORT ...
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#define IN_BYTES (1 << 18)
#define BATCH_BYTES (16 << 20)
#define FILE_BYTES (1L << 30)

struct connection {
  int fd, used, out_used;
  char in[IN_BYTES], out[IN_BYTES * 2];
};

static const char REPLY[] =
    "{\"code\":0,\"extFields\":{\"queueId\":\"0\",\"transactionId\":\"00000000000000000000000000000000\","
    "\"msgId\":\"7F00000100002A9F0000000000000000\",\"TRACE_ON\":\"true\",\"MSG_REGION\":\"DefaultRegion\","
    "\"queueOffset\":\"0\"},\"flag\":1,\"language\":\"JAVA\",\"opaque\":%ld,\"serializeTypeCurrentRPC\":\"JSON\","
    "\"version\":479}";

static void answer(struct connection *c, const char *frame, uint32_t length) {
  char *at = memmem(frame, length, "\"opaque\":", 9);
  char *out = c->out + c->out_used;
  int n = sprintf(out + 8, REPLY, at ? atol(at + 9) : 0);
  uint32_t words[2] = {htonl(n + 4), htonl(n)};
  memcpy(out, words, 8);
  c->out_used += n + 8;
}

int main(int argc, char **argv) {
  if (argc < 3) return fprintf(stderr, "usage: floor PORT FILE [sync]\n"), 2;
  int sync_each = argc > 3 && strcmp(argv[3], "sync") == 0, one = 1;
  int file = open(argv[2], O_RDWR | O_CREAT | O_TRUNC, 0644);
  if (file < 0 || fallocate(file, 0, 0, FILE_BYTES) != 0) return perror(argv[2]), 1;
  int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), epoll = epoll_create1(0);
  setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
  struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(atoi(argv[1])), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  if (bind(listener, (struct sockaddr *)&address, sizeof address) != 0 || listen(listener, 1024) != 0) return perror(argv[1]), 1;
  struct epoll_event event = {.events = EPOLLIN}, ready[512];
  epoll_ctl(epoll, EPOLL_CTL_ADD, listener, &event);
  char *batch = malloc(BATCH_BYTES);
  long end = 0;
  for (;;) {
    int count = epoll_wait(epoll, ready, 512, -1);
    long filled = 0;
    for (int i = 0; i < count; i++) {
      struct connection *c = ready[i].data.ptr;
      if (c == NULL) {
        int fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK);
        if (fd < 0) continue;
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        c = calloc(1, sizeof *c);
        c->fd = fd;
        event = (struct epoll_event){.events = EPOLLIN, .data.ptr = c};
        epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event);
        ready[i].data.ptr = NULL;
        continue;
      }
      ssize_t n = recv(c->fd, c->in + c->used, IN_BYTES - c->used, 0);
      if (n <= 0) {
        if (n < 0 && errno == EAGAIN) continue;
        close(c->fd), free(c), ready[i].data.ptr = NULL;
        continue;
      }
      c->used += n;
      int at = 0;
      while (c->used - at >= 4) {
        uint32_t length;
        memcpy(&length, c->in + at, 4);
        length = ntohl(length) + 4;
        if (length > (uint32_t)(c->used - at)) break;
        if (filled + length < BATCH_BYTES) memcpy(batch + filled, c->in + at, length), filled += length;
        answer(c, c->in + at, length);
        at += length;
      }
      memmove(c->in, c->in + at, c->used -= at);
    }
    if (filled) {
      if (end + filled > FILE_BYTES) end = 0;
      if (pwrite(file, batch, filled, end) != filled) return perror("pwrite"), 1;
      end += filled;
      if (sync_each) fdatasync(file);
    }
    for (int i = 0; i < count; i++) {
      struct connection *c = ready[i].data.ptr;
      for (int sent = 0; c && sent < c->out_used;) {
        ssize_t n = send(c->fd, c->out + sent, c->out_used - sent, MSG_NOSIGNAL);
        if (n > 0) sent += n;
        else if (errno != EAGAIN) break;
      }
      if (c) c->out_used = 0;
    }
  }
}
