// A Go server on the inherited socket that names its release: RELEASE_DIR is read once, while booting.
package main

import (
	"context"
	"fmt"
	"log"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"
)

func main() {
	// What a release has beside its program: without it the program ends, and the release is refused.
	greeting, err := os.ReadFile("greeting.txt")
	if err != nil {
		log.Fatal(err)
	}
	release := filepath.Base(os.Getenv("RELEASE_DIR"))
	stop, _ := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	http.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/slow" {
			time.Sleep(50 * time.Millisecond)
		}
		if stop.Err() != nil {
			w.Header().Set("Connection", "close")
		}
		fmt.Fprintf(w, "release=%s pid=%d %s", release, os.Getpid(), greeting)
	})

	listener, err := net.FileListener(os.NewFile(3, "inherited"))
	if err != nil {
		log.Fatal(err)
	}
	server := &http.Server{}
	go server.Serve(listener)

	<-stop.Done()
	// Accept nothing more. Shutdown alone would also close idle connections at once, on some of which a request is under
	// way; so they get half a second in which every answer says that the connection ends with it.
	listener.Close()
	time.Sleep(500 * time.Millisecond)
	server.Shutdown(context.Background())
}
