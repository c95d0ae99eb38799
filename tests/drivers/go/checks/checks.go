// Package checks runs the checks of a program in order and says which passed.
package checks

import (
	"fmt"
	"os"
	"sync"
)

type one struct {
	claim string
	run   func() error
}

var all []one

// Check adds one.
func Check(claim string, run func() error) { all = append(all, one{claim, run}) }

// Run runs them.
func Run() {
	for _, c := range all {
		if err := c.run(); err != nil {
			fmt.Fprintf(os.Stderr, "failed: %s: %v\n", c.claim, err)
			os.Exit(1)
		}
		fmt.Println("passed:", c.claim)
	}
	fmt.Println("all passed")
}

// Equal is an error unless both are the same.
func Equal(what string, got, want any) error {
	if fmt.Sprint(got) != fmt.Sprint(want) {
		return fmt.Errorf("%s: got %v instead of %v", what, got, want)
	}
	return nil
}

// Parallel runs work count times at once and returns the first error.
func Parallel(count int, work func(number int) error) error {
	var group sync.WaitGroup
	faults := make(chan error, count)
	for number := range count {
		group.Add(1)
		go func() {
			defer group.Done()
			if err := work(number); err != nil {
				faults <- err
			}
		}()
	}
	group.Wait()
	close(faults)
	return <-faults
}
