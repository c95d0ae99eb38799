import jakarta.persistence.CascadeType;
import jakarta.persistence.Entity;
import jakarta.persistence.GeneratedValue;
import jakarta.persistence.GenerationType;
import jakarta.persistence.Id;
import jakarta.persistence.LockModeType;
import jakarta.persistence.ManyToOne;
import jakarta.persistence.OneToMany;
import jakarta.persistence.Version;
import java.util.ArrayList;
import java.util.List;
import org.hibernate.SessionFactory;
import org.hibernate.cfg.Configuration;

/** Hibernate: its schema tool, sequences, batches, streams, optimistic and pessimistic locks. */
public final class HibernateCheck {
    @Entity(name = "Author")
    public static class Author {
        @Id @GeneratedValue(strategy = GenerationType.SEQUENCE) public Long id;
        public String name;
        public int visits;
        @Version public int version;
        @OneToMany(mappedBy = "author", cascade = CascadeType.ALL) public List<Book> books = new ArrayList<>();
    }

    @Entity(name = "Book")
    public static class Book {
        @Id @GeneratedValue(strategy = GenerationType.IDENTITY) public Long id;
        public String title;
        @ManyToOne public Author author;
    }

    private static SessionFactory factory;

    public static void main(String[] args) {
        Check.check("the schema is made and found complete", () -> {
            factory = open("create");
            open("validate").close();
            open("update").close();
        });
        Check.check("rows, sequences, batches and identity columns", HibernateCheck::rows);
        Check.check("queries, joins, paging, streams", HibernateCheck::queries);
        Check.check("roll back, optimistic and pessimistic locks", HibernateCheck::locks);
        Check.check("many sessions at once", HibernateCheck::many);
        factory.close();
        Check.done();
    }

    private static SessionFactory open(String ddl) {
        return new Configuration().addAnnotatedClass(Author.class).addAnnotatedClass(Book.class)
                .setProperty("jakarta.persistence.jdbc.url", Check.URL)
                .setProperty("jakarta.persistence.jdbc.user", Check.USER)
                .setProperty("jakarta.persistence.jdbc.password", Check.PASSWORD)
                .setProperty("hibernate.hbm2ddl.auto", ddl)
                .setProperty("hibernate.jdbc.batch_size", "50")
                .setProperty("hibernate.connection.pool_size", "5")
                .buildSessionFactory();
    }

    private static void rows() {
        factory.inTransaction(session -> {
            for (int n = 0; n < 200; n++) {
                Author author = new Author();
                author.name = "a" + n;
                for (int m = 0; m < 2; m++) {
                    Book book = new Book();
                    book.title = "b" + n + "-" + m;
                    book.author = author;
                    author.books.add(book);
                }
                session.persist(author);
            }
        });
        Check.equal(factory.fromTransaction(s -> s.createQuery("select count(*) from Book", Long.class).getSingleResult()), 400);
    }

    private static void queries() {
        factory.inTransaction(session -> {
            var found = session.createQuery("from Author a join fetch a.books where a.name = :name", Author.class).setParameter("name", "a7").getSingleResult();
            Check.equal(found.books.size(), 2);
            for (int page = 0; page < 10; page++) {
                Check.equal(session.createQuery("from Author a order by a.id", Author.class).setFirstResult(page * 20).setMaxResults(20).list().size(), 20);
            }
            try (var stream = session.createQuery("select b.title from Book b", String.class).setFetchSize(50).stream()) {
                Check.equal(stream.count(), 400);
            }
            Check.equal(session.createMutationQuery("update Author set visits = 1 where id > 0").executeUpdate(), 200);
        });
    }

    private static void locks() throws Exception {
        try {
            factory.inTransaction(session -> {
                session.createQuery("from Author where name = 'a1'", Author.class).getSingleResult().name = "changed";
                session.flush();
                throw new IllegalStateException("no");
            });
        } catch (IllegalStateException expected) {
            Check.equal(expected.getMessage(), "no");
        }
        Check.equal(factory.fromTransaction(s -> s.createQuery("select count(*) from Author where name = 'changed'", Long.class).getSingleResult()), 0);
        Long id = factory.fromTransaction(s -> s.createQuery("select id from Author where name = 'a1'", Long.class).getSingleResult());
        Check.parallel(4, number -> {
            for (int n = 0; n < 10; n++) {
                factory.inTransaction(s -> s.find(Author.class, id, LockModeType.PESSIMISTIC_WRITE).visits++);
            }
        });
        Check.equal(factory.fromTransaction(s -> s.find(Author.class, id).visits), 41);
    }

    private static void many() throws Exception {
        Check.parallel(5, number -> {
            for (int n = 0; n < 30; n++) {
                String name = "a" + (number * 30 + n);
                Check.equal(factory.fromTransaction(s -> s.createQuery("select a.name from Author a where a.name = ?1", String.class).setParameter(1, name).getSingleResult()), name);
            }
        });
    }
}
