/* The floor: the least a broker can do, to read other figures against.
 *
 * One thread. It splits frames, finds `opaque`, appends the raw bytes of everything one wake-up brought with one pwrite
 * into a fallocated file, and answers each frame with a well-formed reply. It checks nothing, indexes nothing, keeps no
 * queue. `sync`: one fdatasync after each append. `gather`: without the copy that a broker, which must write another
 * record than it received, cannot avoid: pwritev from where the bytes were received. `wrap`: begin again at the start of
 * the file after each GiB, into pages that are in memory already; a log cannot do that, it always writes into new ones.
 *
 *   cc -O2 -o /tmp/floor bench/floor.c && /tmp/floor PORT FILE [sync] [gather] [wrap]     (port 0: a free one, printed)
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
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#define IN_BYTES (1 << 18)
#define OUT_BYTES (1 << 19)
#define READY 512 /* below IOV_MAX */
#define FILE_BYTES (1L << 30)

struct connection {
  int fd, used, whole, out_used; /* bytes in `in`, those of them that are whole frames, bytes in `out` */
  char in[IN_BYTES], out[OUT_BYTES];
};

static const char BEFORE[] = /* eight bytes of lengths come first */
    "{\"code\":0,\"extFields\":{\"queueId\":\"0\",\"transactionId\":\"00000000000000000000000000000000\","
    "\"msgId\":\"7F00000100002A9F0000000000000000\",\"TRACE_ON\":\"true\",\"MSG_REGION\":\"DefaultRegion\","
    "\"queueOffset\":\"0\"},\"flag\":1,\"language\":\"JAVA\",\"opaque\":";
static const char AFTER[] = ",\"serializeTypeCurrentRPC\":\"JSON\",\"version\":479}";
enum { BEFORE_BYTES = sizeof BEFORE - 1, AFTER_BYTES = sizeof AFTER - 1, REPLY_BYTES = 8 + BEFORE_BYTES + 20 + AFTER_BYTES };

static void answer(struct connection *c, const char *frame) {
  uint32_t header;
  memcpy(&header, frame + 4, 4);
  header = ntohl(header) & 0xFFFFFF;
  /* every known client writes it near the end */
  const char *end = frame + 8 + header, *at = header > 96 ? memmem(end - 96, 96, "\"opaque\":", 9) : NULL;
  if (at == NULL) at = memmem(frame + 8, header, "\"opaque\":", 9);
  char *out = c->out + c->out_used, *p = out + 8;
  p = mempcpy(p, BEFORE, BEFORE_BYTES);
  if (at == NULL) *p++ = '0';
  else for (at += 9; *at >= '0' && *at <= '9';) *p++ = *at++;
  p = mempcpy(p, AFTER, AFTER_BYTES);
  uint32_t words[2] = {htonl(p - out - 4), htonl(p - out - 8)};
  memcpy(out, words, 8);
  c->out_used += p - out;
}

/* Answers whole frames; false for what is no frame or has no room. */
static int split(struct connection *c) {
  while (c->used - c->whole >= 8) {
    uint32_t words[2];
    memcpy(words, c->in + c->whole, 8);
    uint32_t length = ntohl(words[0]) + 4, header = ntohl(words[1]) & 0xFFFFFF;
    if (length > IN_BYTES || header + 8 > length || OUT_BYTES - c->out_used < REPLY_BYTES) return 0;
    if (length > (uint32_t)(c->used - c->whole)) break;
    answer(c, c->in + c->whole);
    c->whole += length;
  }
  return 1;
}

int main(int argc, char **argv) {
  if (argc < 3) return fprintf(stderr, "usage: floor PORT FILE [sync] [gather] [wrap]\n"), 2;
  int sync_each = 0, gather = 0, wrap = 0, one = 1;
  for (int i = 3; i < argc; i++) {
    sync_each |= !strcmp(argv[i], "sync");
    gather |= !strcmp(argv[i], "gather");
    wrap |= !strcmp(argv[i], "wrap");
  }
  int file = open(argv[2], O_RDWR | O_CREAT | O_TRUNC, 0644);
  if (file < 0 || fallocate(file, 0, 0, FILE_BYTES) != 0) return perror(argv[2]), 1;
  int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), epoll = epoll_create1(0);
  setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
  struct sockaddr_in address = {
      .sin_family = AF_INET, .sin_port = htons(atoi(argv[1])), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  if (bind(listener, (struct sockaddr *)&address, sizeof address) != 0 || listen(listener, 1024) != 0)
    return perror(argv[1]), 1;
  socklen_t size = sizeof address;
  getsockname(listener, (struct sockaddr *)&address, &size);
  printf("%d\n", ntohs(address.sin_port)), fflush(stdout);
  struct epoll_event event = {.events = EPOLLIN}, ready[READY];
  epoll_ctl(epoll, EPOLL_CTL_ADD, listener, &event);
  struct iovec parts[READY];
  char *batch = malloc((size_t)READY * IN_BYTES); /* touched as far as it is used */
  long end = 0, allocated = FILE_BYTES;
  for (;;) {
    int count = epoll_wait(epoll, ready, READY, -1), gathered = 0;
    long filled = 0;
    for (int i = 0; i < count; i++) {
      struct connection *c = ready[i].data.ptr;
      if (c == NULL) {
        int fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK);
        if (fd < 0) continue;
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        /* without huge pages: 5,000 connections would have 10 GB of zeros made for what they never touch */
        c = mmap(NULL, sizeof *c, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (c == MAP_FAILED) return perror("mmap"), 1;
        madvise(c, sizeof *c, MADV_NOHUGEPAGE);
        c->fd = fd;
        event = (struct epoll_event){.events = EPOLLIN, .data.ptr = c};
        epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event);
        continue;
      }
      ssize_t n = recv(c->fd, c->in + c->used, IN_BYTES - c->used, 0);
      if (n < 0 && errno == EAGAIN) continue;
      c->used += n > 0 ? n : 0;
      if (n <= 0 || !split(c)) {
        close(c->fd), munmap(c, sizeof *c), ready[i].data.ptr = NULL;
        continue;
      }
      if (c->whole && gather) parts[gathered++] = (struct iovec){c->in, c->whole};
      if (c->whole && !gather) memcpy(batch + filled, c->in, c->whole);
      filled += c->whole;
    }
    if (filled) {
      if (end + filled > allocated && wrap) end = 0;
      if (end + filled > allocated) {
        if (fallocate(file, 0, allocated, FILE_BYTES) != 0) return perror(argv[2]), 1;
        allocated += FILE_BYTES;
      }
      ssize_t n = gather ? pwritev(file, parts, gathered, end) : pwrite(file, batch, filled, end);
      if (n != filled) return perror("pwrite"), 1;
      end += filled;
      if (sync_each && fdatasync(file) != 0) return perror("fdatasync"), 1;
    }
    for (int i = 0; i < count; i++) {
      struct connection *c = ready[i].data.ptr;
      if (c == NULL) continue;
      if (c->whole) memmove(c->in, c->in + c->whole, c->used -= c->whole), c->whole = 0;
      for (int sent = 0; sent < c->out_used;) { /* a client that does not read stops everybody */
        ssize_t n = send(c->fd, c->out + sent, c->out_used - sent, MSG_NOSIGNAL);
        if (n > 0) sent += n;
        else if (errno != EAGAIN) break; /* its end shows at the next receive */
      }
      c->out_used = 0;
    }
  }
}
