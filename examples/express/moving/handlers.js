// The application: the same before and after the move.
import express from 'express';

export function start(sessions) {
  const app = express();
  app.use(sessions);
  app.use(express.urlencoded({ extended: false }));

  app.get('/', ({ session }, response) => {
    session.visits = (session.visits ?? 0) + 1;
    response.json({ user: session.user ?? null, visits: session.visits });
  });

  app.post('/login', (request, response, next) => {
    request.session.regenerate((error) => {
      if (error) return next(error);
      request.session.user = request.body.user;
      response.json({ user: request.session.user });
    });
  });

  app.post('/logout', (request, response, next) => {
    request.session.destroy((error) => (error ? next(error) : response.json({})));
  });

  const server = app.listen(Number(process.env.PORT ?? 3000), '127.0.0.1', (error) => {
    if (error) throw error;
    console.log(`listening on http://127.0.0.1:${server.address().port}`);
  });
}
