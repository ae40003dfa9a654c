// A small shop in gin: visits, a cart, a flash message, login, devices. sessiond owns the sessions.
package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"syscall"
	"time"

	"github.com/gin-gonic/gin"
	sessiond "github.com/sessiond/sessiond/clients/go"
)

var sessions *sessiond.Manager

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	client, err := sessiond.New(cmp.Or(os.Getenv("SESSIOND"), "127.0.0.1:50051"), nil)
	if err != nil {
		log.Fatal(err)
	}
	sessions = sessiond.NewManager(client)
	sessions.ErrorFunc = fail

	gin.SetMode(gin.ReleaseMode)
	router := gin.New()
	router.Use(gin.Recovery(), func(c *gin.Context) { c.Header("Cache-Control", "no-store") })
	router.GET("/session", session)
	router.POST("/visit", visit)
	router.POST("/cart", addToCart)
	router.POST("/flash", setFlash)
	router.GET("/flash", takeFlash)
	router.POST("/login", login)
	router.POST("/theme", setTheme)
	router.POST("/logout", logout)
	router.POST("/logout-others", logoutOthers)
	router.POST("/logout-everywhere", logoutEverywhere)
	router.GET("/slow", slow)
	router.GET("/devices", devices)

	// The middleware goes around the whole router: gin's own response writer is inside of it then.
	server := &http.Server{Handler: sessions.LoadAndSave(router), ReadHeaderTimeout: 10 * time.Second}
	listener, err := net.Listen("tcp", "127.0.0.1:"+cmp.Or(os.Getenv("PORT"), "3000"))
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("listening on http://%s\n", listener.Addr())
	go server.Serve(listener)
	<-ctx.Done()
	last, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	server.Shutdown(last)
	client.Close(last)
}

func session(c *gin.Context) {
	ctx := c.Request.Context()
	var user any
	if principal := sessions.Principal(ctx); principal != "" {
		user = principal
	}
	cart, _ := sessiond.Get[[]string](ctx, sessions, "cart")
	if cart == nil {
		cart = []string{}
	}
	c.JSON(http.StatusOK, gin.H{"user": user, "visits": sessions.GetInt(ctx, "visits"), "cart": cart, "live": sessions.Live(ctx)})
}

func visit(c *gin.Context) {
	visits, err := countVisit(c.Request.Context())
	answer(c, gin.H{"visits": visits}, err)
}

func addToCart(c *gin.Context) {
	item := c.PostForm("item")
	cart, err := sessiond.Update(c.Request.Context(), sessions, "cart", func(cart []string) []string { return append(cart, item) })
	answer(c, gin.H{"items": len(cart)}, err)
}

func setFlash(c *gin.Context) {
	answer(c, gin.H{}, sessions.Put(c.Request.Context(), "flash", c.PostForm("text")))
}

func takeFlash(c *gin.Context) {
	flash, err := sessions.Pop(c.Request.Context(), "flash")
	answer(c, gin.H{"flash": flash}, err)
}

func login(c *gin.Context) {
	// A real application checks a password here.
	user := c.PostForm("user")
	answer(c, gin.H{"user": user}, sessions.Login(c.Request.Context(), user, sessiond.LoginOptions{}))
}

func setTheme(c *gin.Context) {
	theme := c.PostForm("theme")
	answer(c, gin.H{"theme": theme}, sessions.Put(c.Request.Context(), "theme", theme))
}

func logout(c *gin.Context) {
	_, err := sessions.Logout(c.Request.Context())
	answer(c, gin.H{}, err)
}

func logoutOthers(c *gin.Context) {
	ended, err := sessions.LogoutOthers(c.Request.Context())
	answer(c, gin.H{"ended": ended}, err)
}

func logoutEverywhere(c *gin.Context) {
	ended, err := sessions.LogoutEverywhere(c.Request.Context())
	answer(c, gin.H{"ended": ended}, err)
}

func slow(c *gin.Context) {
	ctx := c.Request.Context()
	if !sessions.Live(ctx) {
		answer(c, gin.H{"written": false}, nil)
		return
	}
	milliseconds, _ := strconv.Atoi(c.Query("ms"))
	time.Sleep(time.Duration(milliseconds) * time.Millisecond)
	_, err := countVisit(ctx)
	// It has ended meanwhile, or a parallel login has replaced its id.
	if errors.Is(err, sessiond.ErrSessionGone) || errors.Is(err, sessiond.ErrSuperseded) {
		answer(c, gin.H{"written": false}, nil)
		return
	}
	answer(c, gin.H{"written": true}, err)
}

func devices(c *gin.Context) {
	if sessions.Principal(c.Request.Context()) == "" {
		c.JSON(http.StatusUnauthorized, gin.H{})
		return
	}
	list, err := sessions.Devices(c.Request.Context())
	devices := []gin.H{}
	for _, device := range list {
		devices = append(devices, gin.H{"id": device.ID, "current": device.Current})
	}
	answer(c, gin.H{"devices": devices}, err)
}

func countVisit(ctx context.Context) (int, error) {
	return sessiond.Update(ctx, sessions, "visits", func(visits int) int { return visits + 1 })
}

func answer(c *gin.Context, body gin.H, err error) {
	if err != nil {
		fail(c.Writer, c.Request, err)
		return
	}
	c.JSON(http.StatusOK, body)
}

// fail answers 503 with Retry-After while the daemon is away, 409 for a change with an id from before a login, and 400
// for what is not allowed.
func fail(w http.ResponseWriter, _ *http.Request, err error) {
	status := sessiond.HTTPStatus(err)
	if errors.Is(err, sessiond.ReasonInvalidArgument) || errors.Is(err, sessiond.ReasonInvalidData) {
		status = http.StatusBadRequest
	}
	if status == http.StatusInternalServerError {
		log.Print(err)
	}
	sessiond.SetErrorHeaders(w.Header(), err)
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	w.Write([]byte("{}\n"))
}
