// SPDX-License-Identifier: Apache-2.0

package file

import (
	"fmt"
	"os"
	"path/filepath"
	"sync"

	"golang.org/x/sys/unix"
)

// watch tells of changes in the directories a file is reached through. It
// watches directories, not the file: editors and Kubernetes put a new file in
// the old one's place, and a watch on the old one would see nothing more.
type watch struct {
	path    string
	changed chan struct{} // holds one notice
	err     error         // why there is no watch

	file   *os.File // the inotify instance; nil: none
	fd     int
	reader sync.WaitGroup
}

const watchEvents = unix.IN_CLOSE_WRITE | unix.IN_CREATE | unix.IN_DELETE | unix.IN_MOVED_FROM |
	unix.IN_MOVED_TO | unix.IN_ATTRIB | unix.IN_DELETE_SELF | unix.IN_MOVE_SELF | unix.IN_ONLYDIR

// newWatch watches path. It always returns a usable value: without inotify
// nothing is ever sent and err says why.
func newWatch(path string) *watch {
	w := &watch{path: path, changed: make(chan struct{}, 1)}
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		w.err = fmt.Errorf("start inotify: %w (see sysctl fs.inotify.max_user_instances)", err)
		return w
	}
	// A non-blocking descriptor is read through the runtime's poller, so that
	// close ends the read.
	w.fd, w.file = fd, os.NewFile(uintptr(fd), "inotify")
	w.follow()
	w.reader.Go(w.read)
	return w
}

// follow watches the directories that lead to the file now. The kernel knows
// a directory it has already. A directory that is gone is picked up again
// after it is back.
func (w *watch) follow() {
	if w.file == nil {
		return
	}
	w.err = nil
	for _, dir := range directories(w.path) {
		if _, err := unix.InotifyAddWatch(w.fd, dir, watchEvents); err != nil && w.err == nil {
			w.err = fmt.Errorf("watch %s: %w", dir, err)
		}
	}
}

// directories lists those that hold the file and each symbolic link on the
// way to it.
func directories(path string) []string {
	const maxLinks = 16
	var dirs []string
	for range maxLinks {
		dirs = append(dirs, filepath.Dir(path))
		target, err := os.Readlink(path)
		if err != nil {
			break
		}
		if !filepath.IsAbs(target) {
			target = filepath.Join(filepath.Dir(path), target)
		}
		path = target
	}
	return dirs
}

// read turns events into notices until the file is closed. What happened does
// not matter: the file is read and compared.
func (w *watch) read() {
	buf := make([]byte, 64<<10)
	for {
		if _, err := w.file.Read(buf); err != nil {
			return
		}
		select {
		case w.changed <- struct{}{}:
		default:
		}
	}
}

// drain forgets a notice that the coming read of the file covers.
func (w *watch) drain() {
	select {
	case <-w.changed:
	default:
	}
}

// close ends the watch and waits for its reader.
func (w *watch) close() {
	if w.file == nil {
		return
	}
	w.file.Close()
	w.reader.Wait()
}
