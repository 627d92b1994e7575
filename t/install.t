# make install and make uninstall below a folder: nginx runs with the installed files, and they are removed.
use FindBin;
use lib "$FindBin::Bin/lib";
use Test::Memstat;

use Cwd qw(abs_path);
use File::Basename qw(basename dirname);
use File::Copy qw(copy);
use File::Find qw(find);
use File::Path qw(make_path);
use File::Temp qw(tempdir);

my $repository = abs_path("$FindBin::Bin/..");
my $nginx      = Test::Memstat::Configuration::binary();
my $name       = 'ngx_http_memstat_module.so';
my $version    = Test::Memstat::Configuration::nginx_version();

# Returns a path that nginx was configured with.
sub configured {
    my ($option, $default) = @_;
    my ($path) = $version =~ / --$option=(\S+)/;
    return $path // $default;
}
my $prefix  = configured(prefix => '/usr/local/nginx');
my $modules = configured('modules-path' => "$prefix/modules");
my $etc     = dirname configured('conf-path' => "$prefix/conf/nginx.conf");

# Returns a root with the folders of the installed nginx.
sub new_root {
    my ($is_debian) = @_;
    my $root = tempdir('memstat-XXXXXX', TMPDIR => 1, CLEANUP => 1);
    chmod 0755, $root;
    make_path("$root$modules", "$root$etc");
    make_path("$root$prefix/modules-available", map { "$root$etc/$_" } qw(modules-enabled snippets)) if $is_debian;
    return $root;
}

# Returns all files and links below a folder, by path.
sub files {
    my ($root) = @_;
    my %files;
    find({ no_chdir => 1, wanted => sub {
        return if -d && !-l;
        $files{ substr $_, length $root } = -l $_ ? 'to ' . readlink : read_file($_);
    } }, $root);
    return \%files;
}

# Runs tools/install as make does. Returns whether it succeeds, and its output.
sub run {
    my ($action, $root, %with) = @_;
    my $from = $with{from} // $repository;
    my $pid = open(my $out, '-|') // die "cannot fork: $!\n";
    if (!$pid) {
        %ENV = (%ENV, NGINX_BINARY => $with{nginx} // $nginx, DESTDIR => $root,
            MODULE => $with{module} // Test::Memstat::Server->module);
        open STDERR, '>&', \*STDOUT;
        if ($with{user}) { $) = "$with{user} $with{user}"; POSIX::setgid($with{user}); POSIX::setuid($with{user}) }
        exec "$from/tools/install", $action;
        POSIX::_exit(127);
    }
    my $said = do { local $/; <$out> };
    close $out;
    return (!$?, $said);
}

# Runs a server that loads the module with this line and includes the location file.
sub serves {
    my ($main, $location) = @_;
    my $t = Test::Memstat::Server->new(module => 0, main_config => $main, config => "include $location;")->start;
    my $reply = $t->memstat;
    is $reply->{answered_by}{pid}, ($t->workers)[0], 'the worker answers';
    is $_, undef, 'nginx ends as told' for $t->stop;
    return;
}

my $ours    = read_file(Test::Memstat::Server->module);
my $example = read_file("$repository/nginx-conf/memstat.conf");

subtest 'with modules-available and modules-enabled' => sub {
    my $root = new_root(1);
    my $file = "$prefix/modules-available/mod-http-memstat.conf";
    my $link = "$etc/modules-enabled/50-mod-http-memstat.conf";
    my ($done, $said) = run(install => $root);
    ok $done, 'it installs' or diag $said;
    is_deeply files($root), {
        "$modules/$name"           => $ours,
        "$etc/snippets/memstat.conf" => $example,
        $file                      => "load_module modules/$name;\n",
        $link                      => "to $file",
    }, 'the module, its two files and the location' or diag $said;
    like $said, qr{^  in a server block:  include snippets/memstat\.conf;$}m, 'it says what to do';

    # As the distribution has it: modules/ below the prefix is a link to the modules.
    mkdir "$root/prefix";
    symlink "$root$modules", "$root/prefix/modules";
    my $load = read_file($root . substr files($root)->{$link}, 3);
    $load =~ s{ (?=modules/)}{ $root/prefix/};
    serves($load, "$root$etc/snippets/memstat.conf");

    rename "$root$link", "$root$etc/modules-enabled/70-mod-http-memstat.conf";
    ($done, $said) = run(uninstall => $root);
    ok $done, 'it uninstalls' or diag $said;
    is_deeply files($root), { '/prefix/modules' => "to $root$modules" }, 'nothing is left';
};

subtest 'without' => sub {
    plan(skip_all => 'this nginx is installed with them') if -d "$etc/modules-enabled";
    my $root = new_root(0);
    my ($done, $said) = run(install => $root);
    ok $done, 'it installs' or diag $said;
    is_deeply files($root), { "$modules/$name" => $ours, "$etc/memstat.conf" => $example },
        'the module and the location';
    my ($load) = $said =~ m{^  at the top of \Q$etc\E/nginx\.conf:  (load_module \S+;)$}m;
    is $load, "load_module modules/$name;", 'it says what to write';
    serves("load_module $root$modules/$name;", "$root$etc/memstat.conf");
    ($done, $said) = run(uninstall => $root);
    ok $done, 'it uninstalls' or diag $said;
    is_deeply files($root), {}, 'nothing is left';
};

subtest 'what the operator changed' => sub {
    my $root     = new_root(1);
    my $location = "$root$etc/snippets/memstat.conf";
    run(install => $root);
    my $changed = $example =~ s/allow ::1;/allow 192.0.2.1;/r;
    open my $out, '>', $location or die "cannot write $location: $!\n";
    print $out $changed;
    close $out;
    my ($done, $said) = run(install => $root);
    ok $done, 'it installs again' or diag $said;
    is read_file($location), $changed, 'the changed location is kept';
    like $said, qr/^\Q$location\E differs from .* was not changed$/m, 'and it says so';
    ($done, $said) = run(uninstall => $root);
    ok $done, 'it uninstalls' or diag $said;
    is_deeply files($root), { "$etc/snippets/memstat.conf" => $changed }, 'and keeps it';
    like $said, qr/^\Q$location\E differs from .* was not changed$/m, 'and says so';
    like $said, qr/^These files use memstat.*\n\Q$location\E$/m, 'and that nginx would refuse it';
};

subtest 'refused' => sub {
    my $root = new_root(1);
    my ($done, $said) = run(install => $root, module => "$root/none.so");
    ok !$done, 'no module';
    is $said, "install: there is no $root/none.so: run make build first\n", 'it says so';
    ($done, $said) = run(install => $root, nginx => "$root/nginx");
    ok !$done, 'no nginx';
    is $said, "install: there is no nginx at $root/nginx: set NGINX_BINARY\n", 'it says so';

    # A module whose signature has another word size.
    my $other = $ours;
    is $other =~ s/\b8,4,8,(?=[01]{10})/4,4,8,/g, 1, 'the module has one signature';
    my $build = tempdir('memstat-XXXXXX', TMPDIR => 1, CLEANUP => 1);
    open my $out, '>', "$build/$name" or die "cannot write: $!\n";
    print $out $other;
    close $out;
    ($done, $said) = run(install => $root, module => "$build/$name");
    ok !$done, 'a module for another nginx';
    like $said, qr/is not binary compatible.*\ninstall: \S+ does not accept \S+, which was built for another nginx/s,
        'it says what nginx says';

    is_deeply files($root), {}, 'and nothing is written';
};

subtest 'not root' => sub {
    plan(skip_all => 'this is not root') if $>;
    my $root = new_root(1);
    my $from = tempdir('memstat-XXXXXX', TMPDIR => 1, CLEANUP => 1);
    make_path("$from/tools", "$from/nginx-conf");
    copy("$repository/$_", "$from/$_") or die "cannot copy: $!\n" for qw(tools/install nginx-conf/memstat.conf);
    copy(Test::Memstat::Server->module, "$from/$name") or die "cannot copy: $!\n";
    chmod 0755, $from, "$from/tools/install", $root;
    chmod 0644, "$from/$name";
    my %with = (from => $from, module => "$from/$name", user => 65534);
    my ($done, $said) = run(install => $root, %with);
    ok !$done, 'no right to write';
    is $said, "install: cannot write to $root$modules: become root (sudo make install), or set DESTDIR\n",
        'it says so';
    is_deeply files($root), {}, 'and nothing is written';
    my @folders;
    find({ no_chdir => 1, wanted => sub { push @folders, $_ if -d } }, $root);
    chown 65534, 65534, @folders;
    for my $action (qw(install uninstall)) {
        ($done, $said) = run($action => $root, %with);
        ok $done, "with the right it does: $action" or diag $said;
    }
    is_deeply files($root), {}, 'nothing is left';
};

done_testing();
