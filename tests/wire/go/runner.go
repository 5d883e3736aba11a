// Command wire drives the official Go client through scenarios.
//
// It reads one job a line from standard input, "id TAB scenario TAB key=value TAB ..." with percent-encoded
// values, and prints one JSON object a line when a job ends. Jobs run side by side.
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net/url"
	"os"
	"runtime/debug"
	"strings"
	"sync"
	"time"

	"github.com/apache/rocketmq-client-go/v2/rlog"
)

type outcome struct {
	ID       string         `json:"id"`
	Scenario string         `json:"scenario"`
	OK       bool           `json:"ok"`
	Error    string         `json:"error,omitempty"`
	Trace    string         `json:"trace,omitempty"`
	Millis   int64          `json:"millis"`
	Data     map[string]any `json:"data"`
}

// failure is a check that did not hold; its text is a sentence about it.
type failure string

func main() {
	rlog.SetLogLevel("fatal")
	var running sync.WaitGroup
	var printing sync.Mutex
	lines := bufio.NewScanner(os.Stdin)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		fields := strings.Split(lines.Text(), "\t")
		if len(fields) < 2 {
			continue
		}
		params := map[string]string{}
		for _, field := range fields[2:] {
			key, value, _ := strings.Cut(field, "=")
			decoded, err := url.PathUnescape(value)
			if err != nil {
				decoded = value
			}
			params[key] = decoded
		}
		running.Add(1)
		go func() {
			defer running.Done()
			text, _ := json.Marshal(perform(fields[0], fields[1], params))
			printing.Lock()
			defer printing.Unlock()
			fmt.Println(string(text))
		}()
	}
	running.Wait()
}

func perform(id, scenario string, params map[string]string) (result outcome) {
	start := time.Now()
	c := &ctx{scenario: scenario, params: params, data: map[string]any{}}
	result = outcome{ID: id, Scenario: scenario, Data: c.data}
	defer func() {
		if problem := recover(); problem != nil {
			result.OK = false
			result.Error = fmt.Sprint(problem)
			if _, known := problem.(failure); !known {
				result.Trace = string(debug.Stack())
			}
		}
		c.close()
		result.Millis = time.Since(start).Milliseconds()
	}()
	work, known := scenarios[scenario]
	if !known {
		panic(failure("no scenario is called " + scenario))
	}
	work(c)
	result.OK = true
	return result
}
